"""Answering queries: admission, batching, decoding, embedding, search."""
