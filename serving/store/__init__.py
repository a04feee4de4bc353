"""Storage of an index: items, vectors and manifest."""
