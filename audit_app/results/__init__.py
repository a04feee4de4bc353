"""Audit results: the schema, the gate and the scores read from them."""
