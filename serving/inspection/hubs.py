"""Hubs: items that are among the nearest of far more other items than is usual.

An image can be altered so that it is retrieved for many unrelated queries. Such hubs are found by their k-occurrence:
how many items of the gallery have an item among their k nearest (Radovanović et al. 2010, JMLR 11; for adversarial
hubs arXiv 2602.22427). Queries that are near to each other count less than unrelated ones, because an item in the
middle of a dense cluster is near to all of that cluster and is no hub. The sum is compared with that of all items,
with that of the items of the same label, and with that of the item's own neighbors.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ELEMENTS: Final = 1 << 24
"""How many similarities are held at once: 64 MiB, and twice as much for their order."""
_PAIRS: Final = 1 << 20
"""How many pairs of a query's neighbors are looked up at once."""
_USUAL: Final = 2.0
"""Scores up to which an item is not compared with its neighbors."""
_FEWEST: Final = 30
"""Items of a label below which its quantiles say little."""
_MANY: Final = 300
"""Items from which the 97 % quantile says something; the 90 % quantile is taken of fewer."""


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
    unrelated: Floats
    """(n,): the k-occurrence, where queries near to each other count less; see `unrelated_occurrences`."""
    expected: float
    """Mean of the counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HubScores:
    """Robust z-scores, (n,) each; 0 where there is too little to compare with."""

    overall: Floats
    """Compared with all items."""
    in_label: Floats
    """Compared with the items of the same label."""
    combined: Floats
    """The larger of `overall` and two thirds of `in_label`, because a label has fewer items to compare with.

    But at most twice the score compared with the items near to it: some regions of a gallery are denser than others.
    """


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
    return Occurrences(
        k=k,
        queries=len(chosen),
        neighbors=neighbors,
        counts=counts,
        unrelated=unrelated_occurrences(neighbors[:, :depth], chosen, n),
        expected=float(counts.mean()),
    )


def unrelated_occurrences(neighbors: Counts, queries: Counts, n: int) -> Floats:
    """Count how often each item is among the nearest of queries that are not near to each other.

    A query counts 1/√c for an item, where c is the number of the item's queries that are this query or among its
    nearest: r queries of one dense cluster count about √r, r unrelated ones count r.

    Args:
        neighbors: (q,k), the nearest other items of each query.
        queries: (q,), the items that are the queries.
        n: Number of items.

    Returns:
        The sums (n,).
    """
    count, k = neighbors.shape
    row = np.full(n, -1)
    row[queries] = np.arange(count)
    pairs = np.sort((neighbors * count + np.arange(count)[:, None]).ravel())  # every item with each of its queries
    total = np.zeros(n)
    block = max(1, _PAIRS // max(1, k * k))
    for start in range(0, count, block) if k else ():
        items = neighbors[start : start + block]
        near = row[items]  # those of its neighbors that are queries
        wanted = items[:, None, :] * count + near[:, :, None]
        places = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
        related = 1 + ((pairs[places] == wanted) & (near[:, :, None] >= 0)).sum(axis=1)
        total += np.bincount(items.ravel(), weights=1 / np.sqrt(related.ravel()), minlength=n)
    return total


def hub_scores(vectors: Vectors, labels: npt.NDArray[np.int32], occurrences: Occurrences) -> HubScores:
    """Compare the occurrences of each item with what is usual.

    Args:
        vectors: (n,D), of norm 1.
        labels: (n,), numbers of labels; −1: none.
        occurrences: The counts of these items.

    Returns:
        The larger of the scores of the unrelated occurrences and of the square root of all, whose distribution is less
        skewed.
    """
    one, other = (
        _scores(values, vectors, labels, occurrences.k)
        for values in (occurrences.unrelated, np.sqrt(occurrences.counts.astype(np.float64)))
    )
    return HubScores(
        overall=np.maximum(one.overall, other.overall),
        in_label=np.maximum(one.in_label, other.in_label),
        combined=np.maximum(one.combined, other.combined),
    )


def _scores(values: Floats, vectors: Vectors, labels: npt.NDArray[np.int32], k: int) -> HubScores:
    in_label = np.zeros_like(values)
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if len(members) >= _FEWEST:
            in_label[members] = robust_z(values[members])
    overall = robust_z(values)
    highest = np.maximum(overall, in_label / 1.5)
    return HubScores(
        overall=overall, in_label=in_label, combined=np.minimum(highest, 2 * _local(vectors, values, highest, k))
    )


def robust_z(values: Floats) -> Floats:
    """Return (x − median) / s, where s is the standard deviation of a normal distribution with the same upper tail.

    That is from the median to the 97 % quantile (90 % of fewer than 300 values): outliers do not inflate s, and a
    skewed distribution is compared with its own upper half. If both are equal, s is 1.2533 · the mean deviation.
    """
    deviation = values - np.median(values)
    spread = _upper_deviation(values) or 1.2533 * float(np.abs(deviation).mean())
    return deviation / spread if spread else np.zeros_like(deviation)


def _upper_deviation(values: Floats) -> float:
    quantile = 0.97 if len(values) >= _MANY else 0.9
    return float(np.quantile(values, quantile) - np.median(values)) / NormalDist().inv_cdf(quantile)


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


def _local(vectors: Vectors, values: Floats, highest: Floats, k: int) -> Floats:
    """Compare items that are unusual with the median of the items nearest to them, in units of all items."""
    result = np.zeros_like(values)
    unusual = np.flatnonzero(highest > _USUAL)
    near = _nearest_others(vectors, unusual, min(5 * k, len(vectors) - 1))
    difference = values[unusual] - np.median(values[near], axis=1)
    result[unusual] = np.maximum(0, difference) / (_upper_deviation(values) or 1.0)
    return result
