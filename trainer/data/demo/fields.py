"""Scalar fields over the image plane, and the functions that everything else is drawn with."""

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]
"""An array of float32; (S,S) unless told otherwise, row 0 at the top of the image."""

_NOISE_SIDE = 256


def soft(x: Field, width: float) -> Field:
    """A step from 0 to 1 at x = 0, `width` wide."""
    step: Field = np.clip(x * (1 / width) + 0.5, 0, 1)
    return step


def smooth(x: Field) -> Field:
    """The cubic step 3x² - 2x³ of x clipped to [0,1]."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def triangle(x: Field) -> Field:
    """The triangle wave of period 1: 1 at whole numbers, 0 half-way between."""
    return np.abs(2 * (x - np.floor(x)) - 1)


def mix(a: Field | float, b: Field | float, share: Field) -> Field:
    """From a (share 0) to b (share 1)."""
    return a + (b - a) * share


def turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    """Coordinates along axes that are turned anticlockwise by `angle` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def noise(s: Field, t: Field) -> Field:
    """Smooth value noise in [0,1]; features are about 1 unit large, the period is 8 units."""
    per_unit = _NOISE_SIDE // 8
    rows = (t * per_unit).astype(np.int32) & (_NOISE_SIDE - 1)
    columns = (s * per_unit).astype(np.int32) & (_NOISE_SIDE - 1)
    return np.take(_noise_table(), rows * _NOISE_SIDE + columns)


def scatter(rows: npt.NDArray[np.integer[Any]], columns: npt.NDArray[np.integer[Any]], channel: int) -> Field:
    """A number in [0,1) for each cell of an endless grid, the same one for the same cell and channel."""
    return np.take(_scatter_table(), (rows & 31) * 32 + (columns & 31) + 1024 * channel)


@cache
def _noise_table() -> Field:
    rng = np.random.default_rng(20240229)
    total = np.zeros((_NOISE_SIDE, _NOISE_SIDE))
    for cells, weight in ((8, 1.0), (16, 0.5), (32, 0.25), (64, 0.12)):
        total += weight * _periodic(rng.random((cells, cells)))
    low, high = total.min(), total.max()
    return np.asarray((total - low) / (high - low), dtype=np.float32).ravel()


def _periodic(values: Field) -> Field:
    """Values (C,C) on a periodic grid, interpolated with cubic steps to the table's side."""
    cells = len(values)
    at = np.arange(_NOISE_SIDE) * cells / _NOISE_SIDE
    low = at.astype(int)
    share = smooth(at - low)
    rows = mix(values[low], values[(low + 1) % cells], share[:, None])
    return mix(rows[:, low], rows[:, (low + 1) % cells], share[None, :])


@cache
def _scatter_table() -> Field:
    return np.random.default_rng(19).random(1024 * 8, dtype=np.float32)
