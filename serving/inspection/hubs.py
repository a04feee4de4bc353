"""Hubs: items that are among the nearest of far more other items than is usual.

An image can be altered so that it is retrieved for many unrelated queries. Such hubs are found by their k-occurrence:
how many items of the gallery have an item among their k nearest (Radovanović et al. 2010, JMLR 11; for adversarial
hubs arXiv 2602.22427). It is compared with that of all items, with that of the items of the same label, and with that
of the item's own neighbors.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ELEMENTS: Final = 1 << 24
"""How many similarities are held at once: 64 MiB, and twice as much for their order."""
_USUAL: Final = 2.0
"""Scores up to which an item is not compared with its neighbors."""
_FEWEST: Final = 8
"""Items of a label below which its median says nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Occurrences:
    """How often each of n items is among the k nearest of others."""

    k: int
    queries: int
    """Number of items that were searched with."""
    neighbors: Counts
    """(q,k): the nearest other items of each query, best first; −1 where there are fewer."""
    counts: Counts
    """(n,): the k-occurrence."""
    expected: float
    """Mean of the counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HubScores:
    """Robust z-scores of the k-occurrence, (n,) each; 0 where there is too little to compare with.

    An item is suspicious if it is unusual in its gallery or in its label, and at least half as unusual among the items
    near to it: whole regions of a gallery may be denser than others.
    """

    overall: Floats
    """Compared with all items."""
    in_label: Floats
    """Compared with the items of the same label."""
    local: Floats
    """Compared with the items near to it."""

    @property
    def combined(self) -> Floats:
        """The larger of `overall` and `in_label`, but at most twice `local`."""
        result: Floats = np.minimum(np.maximum(self.overall, self.in_label), 2 * np.maximum(self.local, 0))
        return result


def k_occurrences(vectors: Vectors, k: int, *, queries: Counts | None = None) -> Occurrences:
    """Count how often each item is among the k nearest others of a query.

    Args:
        vectors: (n,D), of norm 1.
        k: Neighbors of each query, from 1.
        queries: Positions (q,) of the items to search with; None for all.

    Returns:
        The counts. An item is never its own neighbor.
    """
    n = len(vectors)
    chosen = np.arange(n) if queries is None else queries
    depth = min(k, n - 1)
    neighbors = np.full((len(chosen), k), -1, dtype=np.int64)
    neighbors[:, :depth] = _nearest_others(vectors, chosen, depth)
    counts = np.bincount(neighbors[neighbors >= 0], minlength=n)
    return Occurrences(k=k, queries=len(chosen), neighbors=neighbors, counts=counts, expected=float(counts.mean()))


def hub_scores(vectors: Vectors, labels: npt.NDArray[np.int32], occurrences: Occurrences) -> HubScores:
    """Compare the k-occurrence of each item with what is usual.

    Args:
        vectors: (n,D), of norm 1.
        labels: (n,), numbers of labels; −1: none.
        occurrences: The counts of these items.

    Returns:
        The scores. The square root of a count is compared, whose spread hardly depends on the count itself.
    """
    roots = np.sqrt(occurrences.counts.astype(np.float64))
    in_label = np.zeros_like(roots)
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if len(members) >= _FEWEST:
            in_label[members] = robust_z(roots[members])
    overall = robust_z(roots)
    return HubScores(
        overall=overall, in_label=in_label, local=_local(vectors, roots, np.maximum(overall, in_label), occurrences.k)
    )


def robust_z(values: Floats) -> Floats:
    """Return (x − median) / (1.4826 · MAD), which outliers do not inflate; for MAD 0, the mean deviation · 1.2533."""
    deviation = values - np.median(values)
    spread = _deviation(values) or 1.2533 * float(np.abs(deviation).mean())
    return deviation / spread if spread else np.zeros_like(deviation)


def _deviation(values: Floats) -> float:
    """Return 1.4826 · MAD, the standard deviation of normal values."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _nearest_others(vectors: Vectors, rows: Counts, depth: int) -> Counts:
    """Return the `depth` nearest others (q,depth) of the items `rows` (q,), best first."""
    found = np.empty((len(rows), depth), dtype=np.int64)
    block = max(1, _ELEMENTS // len(vectors))
    for start in range(0, len(rows), block) if depth > 0 else ():
        found[start : start + block] = _nearest_in_block(vectors, rows[start : start + block], depth)
    return found


def _nearest_in_block(vectors: Vectors, rows: Counts, depth: int) -> Counts:
    """Return the nearest others of a block of items. Its large arrays are freed before the next block."""
    scores = vectors[rows] @ vectors.T
    scores[np.arange(len(rows)), rows] = -np.inf
    best = np.argpartition(scores, -depth, axis=1)[:, -depth:]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    nearest: Counts = np.take_along_axis(best, order, axis=1)
    return nearest


def _local(vectors: Vectors, roots: Floats, highest: Floats, k: int) -> Floats:
    """Compare items that are unusual with the median of the items nearest to them, in units of all items."""
    result = np.zeros_like(roots)
    unusual = np.flatnonzero(highest > _USUAL)
    near = _nearest_others(vectors, unusual, min(5 * k, len(vectors) - 1))
    result[unusual] = (roots[unusual] - np.median(roots[near], axis=1)) / (_deviation(roots) or 1.0)
    return result
