"""Models under audit."""
