"""The patterns: for each place on a surface, how much of the second and of the third color lies on the base.

To add one: a name in `Pattern` and a function in `PATTERNS`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hardrank.trainer.data.demo.fields import Field, noise, scatter, smooth, soft, triangle
from hardrank.trainer.data.demo.specification import Pattern

Coverage = tuple[Field, Field]
"""Shares in [0,1] of the second color over the base, and of the third over both."""

_EDGE = 0.09


def _drip(s: Field, t: Field) -> Coverage:
    # Only the place around the surface is free: a glaze always runs from the top.
    level = 0.34 - 0.75 * noise(s * 2.6, 0 * s + 3.3) + 0.07 * np.sin(s * 9)
    above = t - level
    return smooth(above * 14 + 0.5), 0.9 * smooth(1 - np.abs(above + 0.02) * 16) + 0.25 * smooth((t - 0.45) * 2.2)


def _stripes(s: Field, t: Field) -> Coverage:
    x = t * (1 / 0.4)
    return soft(0.5 - triangle(x), 2 * _EDGE), soft(triangle(x) - 0.8, 2 * _EDGE)


def _dots(s: Field, t: Field) -> Coverage:
    x, y, odd = _staggered(s, t, 0.33)
    inside = soft(0.35 - np.hypot(x, y), _EDGE)
    return inside * (1 - odd), inside * odd


def _gingham(s: Field, t: Field) -> Coverage:
    cell = 1 / 0.34
    warp, weft = triangle(s * cell), triangle(t * cell)
    second = 0.52 * (soft(0.5 - warp, 2 * _EDGE) + soft(0.5 - weft, 2 * _EDGE))
    return np.minimum(second, 1), 0.75 * np.maximum(soft(warp - 0.9, _EDGE), soft(weft - 0.9, _EDGE))


def _chevrons(s: Field, t: Field) -> Coverage:
    x = t * (1 / 0.42) + 0.75 * triangle(s * (1 / 0.42))
    return soft(0.5 - triangle(x), 2 * _EDGE), soft(triangle(x) - 0.84, 2 * _EDGE)


def _terrazzo(s: Field, t: Field) -> Coverage:
    cell = 1 / 0.23
    s, t = s * cell, t * cell
    left, foot = np.floor(s), np.floor(t)
    columns, rows = left.astype(np.int32), foot.astype(np.int32)
    x = s - left - 0.35 - 0.3 * scatter(rows, columns, 0)
    y = t - foot - 0.35 - 0.3 * scatter(rows, columns, 1)
    slant = 2 * scatter(rows, columns, 2) - 1
    size = 0.2 + 0.24 * scatter(rows, columns, 3)
    x, y = x + slant * y, y - slant * x
    chip = soft(size - np.maximum(np.abs(x), 0.8 * np.abs(y) + 0.4 * np.abs(x + 0.1)), 0.14)
    third = (scatter(rows, columns, 4) > 0.5).astype(np.float32)
    return chip * (1 - third), chip * third


def _flowers(s: Field, t: Field) -> Coverage:
    x, y, _ = _staggered(s, t, 0.52)
    radius = np.hypot(x, y)
    petals = soft(0.2 + 0.24 * np.sqrt(np.abs(np.cos(2.5 * np.arctan2(x, y)))) - radius, _EDGE)
    return petals, soft(0.15 - radius, _EDGE)


def _marble(s: Field, t: Field) -> Coverage:
    cloud = noise(s * 1.7, t * 1.7)
    vein = 1 - np.abs(np.sin(3.6 * (0.6 * s + t) + 9 * cloud))
    thread = 1 - np.abs(np.sin(4.1 * (s - 0.4 * t) + 8 * noise(t * 1.3 + 4, s * 1.3)))
    return np.clip(smooth((vein - 0.42) * 2.4) + 0.35 * smooth((cloud - 0.5) * 3), 0, 1), smooth((thread - 0.82) * 8)


def _staggered(s: Field, t: Field, cell: float) -> tuple[Field, Field, Field]:
    """Coordinates from the center of each cell of a brickwork grid, in [-0.5,0.5], and 1 in its odd rows, else 0."""
    t = t * (1 / cell)
    rows = np.floor(t)
    odd = rows - 2 * np.floor(rows * 0.5)
    s = s * (1 / cell) + 0.5 * odd
    return s - np.floor(s) - 0.5, t - rows - 0.5, odd


PATTERNS: Mapping[Pattern, Callable[[Field, Field], Coverage]] = {
    Pattern.DRIP: _drip,
    Pattern.STRIPES: _stripes,
    Pattern.DOTS: _dots,
    Pattern.GINGHAM: _gingham,
    Pattern.CHEVRONS: _chevrons,
    Pattern.TERRAZZO: _terrazzo,
    Pattern.FLOWERS: _flowers,
    Pattern.MARBLE: _marble,
}
