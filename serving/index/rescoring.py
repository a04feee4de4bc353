"""Exact scores for the candidates of a backend, and the best of them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import Backend, Slots, Vectors
from hardrank.serving.store.snapshot import Snapshot

_TOLERANCE: Final = 1e-5
"""Bound on the difference of float32 inner products summed in different orders, for vectors of norm 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRows:
    """The most similar items to one query, best first; equal scores in row order."""

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    """Cosine similarities, in [−1,1]."""
    tied: bool
    """Whether all other candidates score as high as the last, so that items outside may precede it in row order."""


def nearest_items(
    snapshot: Snapshot,
    backend: Backend,
    queries: Vectors,
    k: int,
    *,
    label: str | None = None,
    excluded: Slots | None = None,
) -> list[ScoredRows]:
    """Return the k nearest items to each query (Q,D) of norm 1; fewer if the label has fewer.

    `excluded` (Q,) is a slot to leave out for each query; −1: none.
    """
    count = min(k + (excluded is not None), snapshot.size)
    if excluded is None:
        excluded = np.full(len(queries), -1, dtype=np.int64)
    while True:
        slots = backend.candidates(snapshot, queries, count, label=label)
        found = [
            _rescore(snapshot, query, own[(own >= 0) & (own != out)], k)
            for query, own, out in zip(queries, slots, excluded, strict=True)
        ]
        full = (slots >= 0).sum(axis=1) >= count
        if count == snapshot.size or not any(one.tied and more for one, more in zip(found, full, strict=True)):
            return found
        count = min(4 * count, snapshot.size)  # which of many equal items come first is only known from all of them


def _rescore(snapshot: Snapshot, query: npt.NDArray[np.float32], slots: Slots, k: int) -> ScoredRows:
    """Score candidates exactly and keep the best k."""
    slots = np.sort(slots)  # rows ascend with slots, and the file is read in order
    vectors = snapshot.vectors[slots]
    rough = vectors @ query
    lowest = rough.min(initial=np.inf)
    if len(slots) > k:
        near = rough >= np.partition(rough, -k)[-k] - _TOLERANCE
        slots, vectors = slots[near], vectors[near]
    # Row by row, so that an item's score does not depend on the other candidates, as it does in a matrix product.
    scores = (vectors.astype(np.float64) * query).sum(axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    tied = len(order) == k and bool(lowest >= scores[order[-1]] - _TOLERANCE)
    return ScoredRows(rows=snapshot.rows_of(slots[order]), scores=scores[order].clip(-1, 1), tied=tied)
