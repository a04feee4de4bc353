"""Answers queries: admission, decoding, batched embedding and search, for the API and the page alike."""
