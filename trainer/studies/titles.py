"""Where the titles of points in a plot go: beside them, over nothing else."""

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def title_offsets(centres: Array, sizes: Array, frame: Array, bars: Array) -> list[tuple[int, int]]:
    """Where titles go that cover no point, bar or title before them and leave no frame, where there is such a place.

    Of such places a near one whose line to the point crosses few of these.

    `centres` (n,2) of the points, `sizes` (n,2) of the titles, `frame` and `bars` (m,4) as left, bottom, right, top,
    all in points of 1/72 inch. Gives offsets (dx, dy) from a point to the middle of its title's left end, or right end
    where dx < 0.
    """
    marks = np.column_stack([centres - 4, centres + 4])
    taken = np.concatenate([marks, bars + np.array([-1, -1, 1, 1])])
    places = np.array(_PLACES, dtype=np.float64)
    former = np.empty((0, 4))
    chosen = []
    for centre, (width, height) in zip(centres, sizes, strict=True):
        ends = centre + places
        left = np.where(places[:, 0] > 0, ends[:, 0], ends[:, 0] - width)
        boxes = np.column_stack([left, ends[:, 1] - height / 2, left + width, ends[:, 1] + height / 2])
        lines = _lines(centre, places)
        outside = width * height - _shared(boxes[:, None], frame[None])
        crossed = 0.01 * _shared(lines.reshape(len(places), -1, 4), taken) + 0.1 * _shared(boxes[:, None], former)
        crossed += 0.001 * np.abs(places).sum(axis=1)  # rather across the end of a bar than far away
        best = int(np.argmin(np.round(_shared(boxes[:, None], taken) + 4 * outside + crossed, 3)))
        chosen.append(_PLACES[best])
        taken = np.concatenate([taken, boxes[best : best + 1]])
        former = np.concatenate([former, lines[best]])
    return chosen


_PLACES: Final = sorted(
    ((dx, dy) for dx in (7, -7, 25, -25, 50, -50, 75, -75) for dy in range(-90, 91, 5)),
    key=lambda place: (abs(place[0]) + abs(place[1]), -place[0]),
)
"""Offsets of a title from its point, in points; the nearest first."""


def _lines(centre: Array, places: Array, dots: int = 24) -> Array:
    """Boxes (n,dots,4) of one point's size along the lines from a point to its title, outside of its own mark."""
    lengths = np.linalg.norm(places, axis=1)
    begin = np.minimum(1, 8 / lengths)
    shares = begin[:, None] + (1 - begin)[:, None] * np.linspace(0, 1, dots)
    middles = centre + shares[..., None] * places[:, None]
    return np.concatenate([middles - 0.5, middles + 0.5], axis=2)


def _shared(ones: Array, others: Array) -> Array:
    """Area (n,) that the boxes `ones` (n,k,4), as left, bottom, right, top, share with all `others` (m,4)."""
    one, other = ones[:, :, None], others[None, None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    area: Array = np.maximum(0, sides).prod(axis=3).sum(axis=(1, 2))
    return area
