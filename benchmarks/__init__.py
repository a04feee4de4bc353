"""Measured comparisons, and the plainly written code that they compare with."""
