"""Exact search: compare every vector with every query."""

from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import Slots, Vectors

BLOCK: Final = 32_768
"""Default number of vectors compared at a time; bounds the memory of many queries."""
_SPARE: Final = 8
"""Candidates beyond the requested ones: rounding in float32 depends on how many queries are multiplied at once, and
must not decide which of two nearly equal items is the last."""


def nearest_in_range(
    queries: Vectors, vectors: Vectors, count: int, *, start: int, alive: npt.NDArray[np.bool_], block: int = BLOCK
) -> Slots:
    """Return the live slots ≥ `start` with the largest inner products, (Q,C) with C ≤ count + 8; −1 pads a row."""
    top = _TopSlots(queries, count + _SPARE)
    for first in range(start, len(vectors), block):
        scores = queries @ vectors[first : first + block].T
        live = alive[first : first + block]
        if not live.all():
            scores[:, ~live] = -np.inf
        top.offer(scores, np.arange(first, first + scores.shape[1]))
    return top.slots


def nearest_among(queries: Vectors, vectors: Vectors, count: int, *, slots: Slots, block: int = BLOCK) -> Slots:
    """Return those of `slots` (n,) with the largest inner products, (Q,C) with C ≤ count + 8."""
    top = _TopSlots(queries, count + _SPARE)
    for first in range(0, len(slots), block):
        part = slots[first : first + block]
        top.offer(queries @ vectors[part].T, part)
    return top.slots


def complete_rows(
    slots: Slots, queries: Vectors, vectors: Vectors, count: int, *, alive: npt.NDArray[np.bool_], existing: int
) -> Slots:
    """Search exactly for the queries with fewer candidates (Q,C) than `count`, although `existing` items exist."""
    few = np.flatnonzero((slots >= 0).sum(axis=1) < min(count, existing))
    if not len(few):
        return slots
    exact = nearest_in_range(queries[few], vectors, count, start=0, alive=alive)
    complete = np.full((len(slots), max(slots.shape[1], exact.shape[1])), -1, dtype=np.int64)
    complete[:, : slots.shape[1]] = slots
    complete[few] = -1
    complete[few, : exact.shape[1]] = exact
    return complete


class _TopSlots:
    """The slots with the largest scores so far, for each query."""

    def __init__(self, queries: Vectors, count: int) -> None:
        self._count = count
        self._scores = np.empty((len(queries), 0), dtype=np.float32)
        self.slots: Slots = np.empty((len(queries), 0), dtype=np.int64)

    def offer(self, scores: Vectors, slots: Slots) -> None:
        """Consider scores (Q,n) of slots (n,); −∞ is never taken."""
        scores, taken = self._best(scores, np.broadcast_to(slots, scores.shape))
        taken = np.where(np.isneginf(scores), -1, taken)
        if self.slots.shape[1]:
            scores = np.concatenate([self._scores, scores], axis=1)
            taken = np.concatenate([self.slots, taken], axis=1)
            scores, taken = self._best(scores, taken)
        self._scores, self.slots = scores, taken

    def _best(self, scores: Vectors, slots: Slots) -> tuple[Vectors, Slots]:
        """Return the largest scores of each row, in any order, and their slots."""
        if scores.shape[1] <= self._count:
            return scores, slots
        chosen = np.argpartition(scores, -self._count, axis=1)[:, -self._count :]
        return np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(slots, chosen, axis=1)
