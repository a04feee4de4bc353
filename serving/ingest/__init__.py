"""From image files to an index."""
