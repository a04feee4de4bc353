"""The groups of images with the lowest scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

_FEW: Final = 2
"""Groups with fewer images are returned only if there are no others: one image says little."""

Label = TypeVar("Label", int, str)


@dataclass(frozen=True, kw_only=True)
class ScoredGroup(Generic[Label]):
    """The images with a label."""

    label: Label
    score: float
    """Their mean score."""
    positions: tuple[int, ...]
    """The images, the weakest first."""


def weakest_groups(labels: Sequence[Label], scores: npt.NDArray[np.float64], count: int) -> list[ScoredGroup[Label]]:
    """Group images by `labels` (n,), and return the `count` groups with the lowest mean of `scores` (n,)."""
    images: dict[Label, list[int]] = {}
    for place in np.argsort(scores, kind="stable").tolist():
        images.setdefault(labels[place], []).append(place)
    groups = [
        ScoredGroup(label=label, score=float(scores[places].mean()), positions=tuple(places))
        for label, places in images.items()
    ]
    several = [group for group in groups if len(group.positions) >= _FEW]
    return sorted(several or groups, key=lambda group: (group.score, group.label))[:count]
