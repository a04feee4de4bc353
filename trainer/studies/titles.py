"""Placement of the titles of points in a plot: beside the point, without covering anything else."""

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def title_offsets(centers: Array, sizes: Array, frame: Array, bars: Array) -> list[tuple[int, int]]:
    """Place titles so that they cover no point, bar or other title, and stay in the frame, as far as possible.

    Among such places, prefer near ones whose line to the point crosses little.

    Args:
        centers: (n,2) centers of the points, in units of 1/72 inch, like all lengths here.
        sizes: (n,2) widths and heights of the titles.
        frame: (4,) left, bottom, right, top of the plot.
        bars: (m,4) boxes of the error bars.

    Returns:
        Offsets (dx, dy) from each point to the middle of its title's left end, or of its right end if dx < 0.
    """
    marks = np.column_stack([centers - 4, centers + 4])
    taken = np.concatenate([marks, bars + np.array([-1, -1, 1, 1])])
    places = np.array(_PLACES, dtype=np.float64)
    former = np.empty((0, 4))
    chosen = []
    for center, (width, height) in zip(centers, sizes, strict=True):
        ends = center + places
        left = np.where(places[:, 0] > 0, ends[:, 0], ends[:, 0] - width)
        boxes = np.column_stack([left, ends[:, 1] - height / 2, left + width, ends[:, 1] + height / 2])
        lines = _lines(center, places)
        outside = width * height - _shared(boxes[:, None], frame[None])
        crossed = 0.01 * _shared(lines.reshape(len(places), -1, 4), taken) + 0.1 * _shared(boxes[:, None], former)
        crossed += 0.001 * np.abs(places).sum(axis=1)  # better across the end of a bar than far away
        best = int(np.argmin(np.round(_shared(boxes[:, None], taken) + 4 * outside + crossed, 3)))
        chosen.append(_PLACES[best])
        taken = np.concatenate([taken, boxes[best : best + 1]])
        former = np.concatenate([former, lines[best]])
    return chosen


_PLACES: Final = sorted(
    ((dx, dy) for dx in (7, -7, 25, -25, 50, -50, 75, -75) for dy in range(-90, 91, 5)),
    key=lambda place: (abs(place[0]) + abs(place[1]), -place[0]),
)
"""Candidate offsets of a title from its point, the nearest first."""


def _lines(center: Array, places: Array) -> Array:
    """Boxes (n,24,4), one unit wide, along the lines from a point to its title, outside its own marker."""
    lengths = np.linalg.norm(places, axis=1)
    begin = np.minimum(1, 8 / lengths)
    shares = begin[:, None] + (1 - begin)[:, None] * np.linspace(0, 1, 24)
    middles = center + shares[..., None] * places[:, None]
    return np.concatenate([middles - 0.5, middles + 0.5], axis=2)


def _shared(ones: Array, others: Array) -> Array:
    """Area (n,) that the boxes `ones` (n,k,4), as left, bottom, right, top, share with all `others` (m,4)."""
    one, other = ones[:, :, None], others[None, None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    area: Array = np.maximum(0, sides).prod(axis=3).sum(axis=(1, 2))
    return area
