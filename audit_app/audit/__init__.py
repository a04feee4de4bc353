"""The headless audit."""
