"""What an embedding model is, and how it lies on disk."""
