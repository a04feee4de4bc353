"""Exact search: every vector is compared with every query."""

from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import Slots, Vectors

_BLOCK: Final = 32_768
"""Vectors compared at a time; bounds the memory of many queries."""
_SPARE: Final = 8
"""Candidates beyond those asked: float32 sums depend on how many queries are multiplied at once, and a tie at the last
place must not."""


def nearest_in_range(
    queries: Vectors, vectors: Vectors, count: int, *, start: int, alive: npt.NDArray[np.bool_]
) -> Slots:
    """Give the living slots ≥ `start` with the largest inner products (Q,C), C ≤ count + 8; −1 fills a row."""
    best = _Best(queries, count + _SPARE)
    for first in range(start, len(vectors), _BLOCK):
        scores = queries @ vectors[first : first + _BLOCK].T
        living = alive[first : first + _BLOCK]
        if not living.all():
            scores[:, ~living] = -np.inf
        best.offer(scores, np.arange(first, first + scores.shape[1]))
    return best.slots


def nearest_among(queries: Vectors, vectors: Vectors, count: int, *, slots: Slots) -> Slots:
    """Give those of `slots` (n,) with the largest inner products (Q,C), C ≤ count + 8."""
    best = _Best(queries, count + _SPARE)
    for first in range(0, len(slots), _BLOCK):
        part = slots[first : first + _BLOCK]
        best.offer(queries @ vectors[part].T, part)
    return best.slots


def completed(
    slots: Slots, queries: Vectors, vectors: Vectors, count: int, *, alive: npt.NDArray[np.bool_], there: int
) -> Slots:
    """Search exactly for the queries whose candidates (Q,C) are fewer than `count` and than the items `there` are."""
    few = np.flatnonzero((slots >= 0).sum(axis=1) < min(count, there))
    if not len(few):
        return slots
    exact = nearest_in_range(queries[few], vectors, count, start=0, alive=alive)
    whole = np.full((len(slots), max(slots.shape[1], exact.shape[1])), -1, dtype=np.int64)
    whole[:, : slots.shape[1]] = slots
    whole[few] = -1
    whole[few, : exact.shape[1]] = exact
    return whole


class _Best:
    """The best slots so far."""

    def __init__(self, queries: Vectors, count: int) -> None:
        self._count = count
        self._scores = np.empty((len(queries), 0), dtype=np.float32)
        self.slots: Slots = np.empty((len(queries), 0), dtype=np.int64)

    def offer(self, scores: Vectors, slots: Slots) -> None:
        """Consider scores (Q,n) of slots (n,); −∞ is never taken."""
        if scores.shape[1] > self._count:
            chosen = np.argpartition(scores, -self._count, axis=1)[:, -self._count :]
            scores, taken = np.take_along_axis(scores, chosen, axis=1), slots[chosen]
        else:
            taken = np.broadcast_to(slots, scores.shape)
        taken = np.where(np.isneginf(scores), -1, taken)
        if self.slots.shape[1]:
            scores = np.concatenate([self._scores, scores], axis=1)
            taken = np.concatenate([self.slots, taken], axis=1)
        if scores.shape[1] > self._count:
            chosen = np.argpartition(scores, -self._count, axis=1)[:, -self._count :]
            scores, taken = np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(taken, chosen, axis=1)
        self._scores, self.slots = scores, taken
