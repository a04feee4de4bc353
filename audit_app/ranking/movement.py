"""How a ranking changes: ranks before and after, which items enter and leave the first k, how far embeddings move.

Ranks count from 1 for the highest score. Items with equal scores are ordered by row, as the index orders them. Items
that are not ranked, such as the query's own copy, have the rank `UNRANKED`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError

UNRANKED: Final = 0
"""The rank of an item that is left out of the ranking."""

Ranks = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]


class RankingError(HardrankError):
    """Scores that cannot be ranked, or rankings that cannot be compared."""


def rank_items(scores: Scores, *, left_out: Sequence[int] = ()) -> Ranks:
    """Rank items by `scores` (N,), the highest first → (N,); rows `left_out` get `UNRANKED`.

    Raises:
        RankingError: A score is not finite, or nothing is left to rank.
    """
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise RankingError(f"scores must be finite numbers of shape (N,), not {scores.dtype} {scores.shape}")
    ranked = np.ones(len(scores), dtype=bool)
    ranked[list(left_out)] = False
    if not ranked.any():
        raise RankingError(
            "the gallery contains only the query itself, so there is no ranking; add images to the gallery"
        )
    order = np.argsort(-scores, kind="stable")
    order = order[ranked[order]]
    ranks = np.full(len(scores), UNRANKED, dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


@dataclass(frozen=True, eq=False)
class RankingMovement:
    """Two rankings of the same items. Raises `RankingError` if they rank different items, or fewer than `k`."""

    before: Ranks
    """(N,)."""
    after: Ranks
    """(N,)."""
    k: int
    """How many of the first items are compared; at least 1."""

    def __post_init__(self) -> None:
        if self.before.shape != self.after.shape or ((self.before == UNRANKED) != (self.after == UNRANKED)).any():
            raise RankingError("the two rankings do not rank the same items, so they cannot be compared")
        if not 1 <= self.k <= self.ranked:
            raise RankingError(f"k is {self.k}, but {self.ranked} items are ranked; give 1 to {self.ranked}")

    @property
    def ranked(self) -> int:
        """How many items have a rank."""
        return int((self.before != UNRANKED).sum())

    @cached_property
    def rank_gain(self) -> npt.NDArray[np.int64]:
        """Ranks by which each item rose (N,); negative where it fell, 0 where it has no rank."""
        return self.before - self.after

    @cached_property
    def top_before(self) -> Rows:
        """Rows of the first k items before (k,), by rank."""
        return top_rows(self.before, self.k)

    @cached_property
    def top_after(self) -> Rows:
        """Rows of the first k items after (k,), by rank."""
        return top_rows(self.after, self.k)

    @property
    def entered(self) -> Rows:
        """Rows that entered the first k (E,), by their new rank."""
        return self.top_after[self.before[self.top_after] > self.k]

    @property
    def overlap(self) -> float:
        """Share of the first k that stayed, in any order, in [0,1]."""
        return 1 - len(self.entered) / self.k


def top_rows(ranks: Ranks, k: int) -> Rows:
    """Return the rows of the first `k` items by `ranks` (N,) → (k,), by rank; fewer if fewer are ranked."""
    order = np.argsort(np.where(ranks == UNRANKED, len(ranks) + 1, ranks), kind="stable")
    return order[: min(k, int((ranks != UNRANKED).sum()))]


def embedding_shift(before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> float:
    """Return the distance, 0 to 2, that an embedding moved from `before` (D,) to `after` (D,), both of norm 1."""
    return float(np.linalg.norm(before.astype(np.float64) - after.astype(np.float64)))
