"""Attacks on searches that show ids alone: an ONNX file with a gallery, or a live HTTP API."""
