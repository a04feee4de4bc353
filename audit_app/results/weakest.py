"""The groups of images with the lowest scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_FEW: Final = 2
"""Groups with fewer images are returned only if there are no others: one image says little."""


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """The images with a label."""

    label: int
    score: float
    """Their mean score."""
    positions: tuple[int, ...]
    """The images, the weakest first."""


def weakest_groups(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], count: int) -> list[ScoredGroup]:
    """Group images by `labels` (n,), and return the `count` groups with the lowest mean of `scores` (n,)."""
    groups = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        positions = positions[np.argsort(scores[positions], kind="stable")]
        groups.append(
            ScoredGroup(label=int(label), score=float(scores[positions].mean()), positions=tuple(positions.tolist()))
        )
    several = [group for group in groups if len(group.positions) >= _FEW]
    return sorted(several or groups, key=lambda group: (group.score, group.label))[:count]


def number_names(names: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the sorted distinct names, and the index of each name among them (n,)."""
    distinct, numbers = np.unique(np.array(names, dtype=object), return_inverse=True)
    return distinct.tolist(), numbers.astype(np.int64)
