"""Embedding models: network, preprocessing, files on disk."""
