"""Adversarial images as files, and what they survive."""
