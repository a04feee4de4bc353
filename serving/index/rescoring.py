"""The best of a snapshot for each query: a backend names candidates, and exact scores put them in order."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import Backend, Slots, Vectors
from hardrank.serving.store.snapshot import Snapshot

_ROUGH: Final = 1e-5
"""Sums of float32 in another order differ by less, for vectors of norm 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Best:
    """The best of a query's candidates, the best first; the lower row first where scores are equal."""

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    """Cosine similarities, in [−1,1]."""
    tied: bool
    """Whether all candidates beyond are as good as the last, so that there may be others with a better claim."""


def rank(
    snapshot: Snapshot,
    backend: Backend,
    queries: Vectors,
    k: int,
    *,
    label: str | None = None,
    left_out: Slots | None = None,
) -> list[Best]:
    """Find the k best items for each query (Q,D) of norm 1; fewer where the label has not so many.

    `left_out` (Q,) is the slot that each query must not find; −1: none.
    """
    wanted = min(k + (left_out is not None), snapshot.size)
    if left_out is None:
        left_out = np.full(len(queries), -1, dtype=np.int64)
    while True:
        slots = backend.candidates(snapshot, queries, wanted, label=label)
        found = [
            _best(snapshot, query, own[(own >= 0) & (own != out)], k)
            for query, own, out in zip(queries, slots, left_out, strict=True)
        ]
        full = (slots >= 0).sum(axis=1) >= wanted
        if wanted == snapshot.size or not any(one.tied and more for one, more in zip(found, full, strict=True)):
            return found
        wanted = min(4 * wanted, snapshot.size)  # which of many equal items come first is only known from all


def _best(snapshot: Snapshot, query: npt.NDArray[np.float32], slots: Slots, k: int) -> Best:
    """Score candidates exactly and keep the best k."""
    slots = np.sort(slots)  # rows rise with slots, and the file is read forwards
    vectors = snapshot.vectors[slots]
    rough = vectors @ query
    lowest = rough.min(initial=np.inf)
    if len(slots) > k:
        near = rough >= np.partition(rough, -k)[-k] - _ROUGH
        slots, vectors = slots[near], vectors[near]
    # Row by row, so that an item's score does not depend on which other candidates there are, as in a matrix product.
    scores = (vectors.astype(np.float64) * query).sum(axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    tied = len(order) == k and bool(lowest >= scores[order[-1]] - _ROUGH)
    return Best(rows=snapshot.rows_of(slots[order]), scores=scores[order].clip(-1, 1), tied=tied)
