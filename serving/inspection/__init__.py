"""Looks for items of an index that should not be there, or that models disagree about."""
