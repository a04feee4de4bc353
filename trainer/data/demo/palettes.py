"""The colors, in linear light."""

import math
from functools import cache

import numpy as np

from hardrank.trainer.data.demo.fields import Field
from hardrank.trainer.data.demo.specification import Palette

# Base, second and third color, sRGB.
_COLORS: dict[Palette, tuple[str, str, str]] = {
    Palette.INDIGO: ("f4ecdc", "2b4a94", "dba43c"),
    Palette.CORAL: ("fbdfcf", "e8604c", "8c2f45"),
    Palette.SAGE: ("e9edd2", "6f9a5c", "2f5a40"),
    Palette.MUSTARD: ("e8ae28", "fff3d2", "75432a"),
    Palette.PLUM: ("7a3b72", "f0cfe0", "f4a64f"),
    Palette.TEAL: ("178086", "dcf3ea", "f5c64c"),
    Palette.TERRACOTTA: ("c65d39", "f5deba", "4b2a2c"),
    Palette.MIDNIGHT: ("2f3d63", "cbd8ea", "ee8a72"),
}

# The muted papers, walls and cloths that objects stand before, sRGB.
BACKDROPS = (
    "e4dac8", "cddde3", "f2e6d2", "c2d3b8", "eac4b2", "b4c6dd", "9fb3ab", "d8c4dc",
    "f6f1e8", "7f93a8", "b8957b", "6f7d68", "ead08e", "94788c", "b9dcda", "4a5570",
)  # fmt: skip
WOODS = ("b98455", "d3a976", "8f6140", "e3c79f", "a58263", "6b4a36")
SKIES = ("8fbce0", "a9cfe3", "f0c9a8", "7da3cf", "c8d8e4", "e3b9b8")


@cache
def linear(code: str) -> tuple[float, float, float]:
    """The linear-light RGB, each in [0,1], of an sRGB color written as six hexadecimal digits."""
    red, green, blue = (_to_linear(int(code[at : at + 2], 16) / 255) for at in (0, 2, 4))
    return red, green, blue


def _to_linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def colors(palette: Palette) -> Field:
    """The three colors (3 colors, 3 channels) of a palette, linear light."""
    return np.array([linear(code) for code in _COLORS[palette]], dtype=np.float32)


def graded(rgb: Field, *, hue: float, saturation: float, lightness: float) -> Field:
    """Colors (..., 3) turned by `hue` degrees about the gray axis, then scaled; clipped to [0,1]."""
    angle = math.radians(hue)
    along, across = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    turn = np.full((3, 3), along, dtype=np.float32) + math.cos(angle) * np.eye(3, dtype=np.float32)
    turn += across * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=np.float32)
    turned = rgb @ turn.T
    gray = turned.mean(axis=-1, keepdims=True)
    clipped: Field = np.clip((gray + (turned - gray) * saturation) * lightness, 0.004, 0.98)
    return clipped
