"""An attack that is watched while it runs."""
