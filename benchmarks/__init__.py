"""Measured comparisons, run as `python benchmarks/NAME.py`. What they compare with lies in `tests/reference/`."""
