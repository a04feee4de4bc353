"""Figures as SVG and HTML text: pure functions of numbers, without a page around them."""
