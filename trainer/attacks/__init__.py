"""Attacks on rankings: engines, objectives, and the registry that names them."""
