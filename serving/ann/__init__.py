"""Backends that find candidates, one per file, behind one interface."""
