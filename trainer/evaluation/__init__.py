"""Retrieval quality and adversarial robustness of an embedding model."""
