"""How a ranking moved: ranks before and after, what entered and left its head, how far items and points moved; pure.

A rank counts from 1 for the highest score; items of the same score stand in the order of their rows, as the index
answers them. What is not ranked, as the query's own copy, has the rank `UNRANKED`.
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

    Raises `RankingError` for scores that are not numbers, or when nothing is left to rank.
    """
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise RankingError(f"scores must be finite numbers of shape (N,), not {scores.dtype} {scores.shape}")
    ranked = np.ones(len(scores), dtype=bool)
    ranked[list(left_out)] = False
    if not ranked.any():
        raise RankingError(
            "the gallery holds nothing but the query itself, so there is no ranking; add images to the gallery"
        )
    order = np.argsort(-scores, kind="stable")
    order = order[ranked[order]]
    ranks = np.full(len(scores), UNRANKED, dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


@dataclass(frozen=True, eq=False)
class RankingMovement:
    """Two rankings of the same items. Raises `RankingError` where they rank different items, or fewer than `k`."""

    before: Ranks
    """(N,)."""
    after: Ranks
    """(N,)."""
    k: int
    """How many items the head has; at least 1."""

    def __post_init__(self) -> None:
        if self.before.shape != self.after.shape or ((self.before == UNRANKED) != (self.after == UNRANKED)).any():
            raise RankingError("the two rankings do not rank the same items, so nothing can be said to have moved")
        if not 1 <= self.k <= self.ranked:
            raise RankingError(f"k is {self.k}; {self.ranked} items are ranked: give a k from 1 to that many")

    @property
    def ranked(self) -> int:
        """How many items have a rank."""
        return int((self.before != UNRANKED).sum())

    @cached_property
    def risen_by(self) -> npt.NDArray[np.int64]:
        """Ranks by which each item rose (N,); negative where it fell, 0 where it has no rank."""
        return self.before - self.after

    @cached_property
    def top_before(self) -> Rows:
        """Rows of the head before (k,), the first first."""
        return head(self.before, self.k)

    @cached_property
    def top_after(self) -> Rows:
        """Rows of the head after (k,), the first first."""
        return head(self.after, self.k)

    @property
    def entered(self) -> Rows:
        """Rows that are in the head now and were not (E,), by their new rank."""
        return self.top_after[self.before[self.top_after] > self.k]

    @property
    def left(self) -> Rows:
        """Rows that were in the head and no longer are (E,), by their former rank."""
        return self.top_before[self.after[self.top_before] > self.k]

    @property
    def overlap(self) -> float:
        """Share of the head that is the same, in any order, in [0,1]."""
        return 1 - len(self.entered) / self.k

    @property
    def unmoved(self) -> int:
        """How many items of the head stand where they stood."""
        return int((self.top_before == self.top_after).sum())

    @property
    def mean_fall(self) -> float:
        """Mean ranks by which the items of the former head fell; negative where they rose."""
        return float(-self.risen_by[self.top_before].mean())


def head(ranks: Ranks, k: int) -> Rows:
    """Give the rows of the first `k` ranks of `ranks` (N,) → (k,), the first first; all there are when fewer."""
    order = np.argsort(np.where(ranks == UNRANKED, len(ranks) + 1, ranks), kind="stable")
    return order[: min(k, int((ranks != UNRANKED).sum()))]


def rank_path(scores: Scores, rows: Sequence[int], *, left_out: Sequence[int] = ()) -> Ranks:
    """Ranks of the items `rows` (m,) in each of T rankings by `scores` (T,N) → (T,m)."""
    chosen = list(rows)
    ranks = [rank_items(step, left_out=left_out)[chosen] for step in scores]
    return np.stack(ranks) if ranks else np.empty((0, len(chosen)), dtype=np.int64)


def overlap_path(scores: Scores, k: int, *, left_out: Sequence[int] = ()) -> npt.NDArray[np.float64]:
    """Share of the first `k` items that each ranking by `scores` (T,N) has in common with the first of them → (T,)."""
    heads = [head(rank_items(step, left_out=left_out), k) for step in scores]
    return np.array([len(np.intersect1d(heads[0], later)) / len(later) for later in heads], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class EmbeddingShift:
    """How far a point moved on the unit sphere."""

    distance: float
    """Euclidean, 0 … 2."""
    cosine: float
    """Of the two points, −1 … 1."""


def shift(before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> EmbeddingShift:
    """Measure how far the embedding `before` (D,) of norm 1 moved to become `after` (D,)."""
    one, other = before.astype(np.float64), after.astype(np.float64)
    return EmbeddingShift(distance=float(np.linalg.norm(one - other)), cosine=float(np.clip(one @ other, -1, 1)))
