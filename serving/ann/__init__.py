"""Backends that find candidates, behind one interface: one a file."""
