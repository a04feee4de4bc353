"""Exact scores for the candidates of a backend, and the best of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import Backend, Slots, Vectors
from hardrank.serving.store.snapshot import Snapshot

_TOLERANCE: Final = 1e-5
"""Bound on the difference of float32 inner products summed in different orders, for vectors of norm 1."""
_BLOCK: Final = 128
"""Vectors that are scored at a time: a gallery may have any number of equal items."""


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
    count = k + (excluded is not None)
    if excluded is None:
        excluded = np.full(len(queries), -1, dtype=np.int64)
    return _nearest(snapshot, backend, queries, k, label=label, excluded=excluded, count=count)


def _nearest(
    snapshot: Snapshot, backend: Backend, queries: Vectors, k: int, *, label: str | None, excluded: Slots, count: int
) -> list[ScoredRows]:
    """Return the k nearest items to each query, from at least `count` candidates."""
    count = min(count, snapshot.size)
    slots = backend.candidates(snapshot, queries, count, label=label)
    found = [
        _rescore(snapshot, query, own[(own >= 0) & (own != out)], k)
        for query, own, out in zip(queries, slots, excluded, strict=True)
    ]
    full = (slots >= 0).sum(axis=1) >= count
    for number, one in enumerate(found):
        if one.tied and full[number] and count < snapshot.size:
            # Which of many equal items come first is only known from all of them. The other queries are done.
            same = slice(number, number + 1)
            [found[number]] = _nearest(
                snapshot, backend, queries[same], k, label=label, excluded=excluded[same], count=4 * count
            )
    return found


def _rescore(snapshot: Snapshot, query: npt.NDArray[np.float32], slots: Slots, k: int) -> ScoredRows:
    """Score candidates exactly and keep the best k."""
    slots = np.sort(slots)  # rows ascend with slots, and the file is read in order
    rough = _by_block(lambda vectors: vectors @ query, snapshot.vectors, slots)
    lowest = rough.min(initial=np.inf)
    if len(slots) > k:
        slots = slots[rough >= np.partition(rough, -k)[-k] - _TOLERANCE]
    # Row by row, so that an item's score does not depend on the other candidates, as it does in a matrix product.
    scores = _by_block(lambda vectors: (vectors.astype(np.float64) * query).sum(axis=1), snapshot.vectors, slots)
    order = np.argsort(-scores, kind="stable")[:k]
    tied = len(order) == k and bool(lowest >= scores[order[-1]] - _TOLERANCE)
    return ScoredRows(rows=snapshot.rows_of(slots[order]), scores=scores[order].clip(-1, 1), tied=tied)


def _by_block(score: Callable[[Vectors], npt.NDArray[Any]], vectors: Vectors, slots: Slots) -> npt.NDArray[Any]:
    """Return the scores (n,) of the vectors at `slots` (n,), few at a time."""
    starts = range(0, max(len(slots), 1), _BLOCK)
    return np.concatenate([score(vectors[slots[start : start + _BLOCK]]) for start in starts])
