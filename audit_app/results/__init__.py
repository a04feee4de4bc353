"""Audit results: the report schema, the limits, and the scores read from reports."""
