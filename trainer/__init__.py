"""Training, measuring and exporting of robust embedding models."""
