"""The HTTP API, with FastAPI."""
