"""Distances, triplet samplers and losses, as pure tensor functions."""
