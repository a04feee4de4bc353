"""Image search with exported models."""
