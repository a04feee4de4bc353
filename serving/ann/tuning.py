"""Choice of an ANN index and its search effort by measurements on the gallery itself.

Recall@10 is the share of a query's ten nearest items, by exact search, that an index finds. Half of the queries are
items, each excluded from its own results; they are in dense regions, and easy. The other half are midpoints of two
random items, like images of unseen classes and adversarial images. The lower recall of the two halves counts. Latency
is the time of one query on one thread, including the exact scores of candidates, as in a search.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

import numpy as np

from hardrank.serving.ann.backend import Slots, Vectors
from hardrank.serving.ann.brute_force import nearest_among
from hardrank.serving.ann.faiss_index import FaissIndex
from hardrank.serving.ann.faiss_kinds import FAISS_KINDS, SearchEffort

K: Final = 10
QUERIES: Final = 512
_SEED: Final = 4321


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """Recall and latency of an index with one search effort."""

    structure: str
    width: int
    """See `SearchEffort`."""
    fetch: int
    """See `SearchEffort`."""
    recall_items: float
    """Recall@10 for queries that are items, in [0,1]."""
    recall_between: float
    """Recall@10 for queries between two items, in [0,1]."""
    p50_ms: float
    """Median time of a query, in milliseconds."""

    @property
    def recall(self) -> float:
        """The lower of both recalls."""
        return min(self.recall_items, self.recall_between)

    @property
    def effort(self) -> SearchEffort:
        """The effort that was measured."""
        return SearchEffort(width=self.width, fetch=self.fetch)


class TuningQueries:
    """Queries drawn from the gallery, with their true neighbors."""

    def __init__(self, vectors: Vectors, slots: Slots) -> None:
        """Draw queries from the live `slots` (n,) of `vectors` (S,D), n > 10."""
        self._vectors = vectors
        generator = np.random.default_rng(_SEED)
        items = np.sort(generator.choice(slots, min(QUERIES // 2, len(slots)), replace=False))
        others = generator.choice(slots, len(items))
        between = vectors[items] + vectors[others]
        between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-6)
        self._queries = np.concatenate([vectors[items], between])
        self._own = np.concatenate([items, np.full(len(items), -1)])
        found = nearest_among(self._queries, vectors, K + 1, slots=slots)
        self._true = self._best(self._queries, self._own, found)

    def tune(self, index: FaissIndex, *, recall: float) -> tuple[FaissIndex, list[TuningResult]]:
        """Return the index with its fastest effort that reaches `recall`, else the most accurate; and all results."""
        kind = FAISS_KINDS[index.kind]
        measured: list[TuningResult] = []
        for fetch in kind.fetches:
            for width in kind.widths:
                measured.append(self.measure(replace(index, effort=SearchEffort(width=width, fetch=fetch))))
                if measured[-1].recall >= recall:
                    break
        return replace(index, effort=fastest(measured, recall=recall).effort), measured

    def measure(self, index: FaissIndex) -> TuningResult:
        """Measure recall and latency."""
        times: list[float] = []
        shares: list[float] = []
        for number, query in enumerate(self._queries):
            began = perf_counter()
            found = index.search(query[None], K)
            nearest = self._best(query[None], self._own[number : number + 1], found)
            times.append(perf_counter() - began)
            shares.append(len(np.intersect1d(nearest[0], self._true[number])) / K)
        return TuningResult(
            structure=str(index.kind),
            width=index.effort.width,
            fetch=index.effort.fetch,
            recall_items=float(np.mean(shares[: len(shares) // 2])),
            recall_between=float(np.mean(shares[len(shares) // 2 :])),
            p50_ms=1000 * float(np.median(times)),
        )

    def _best(self, queries: Vectors, own: Slots, candidates: Slots) -> Slots:
        """Return the ten best of each query's candidates without the query itself; −1 pads a row."""
        best = np.full((len(queries), K), -1, dtype=np.int64)
        for query, itself, slots, row in zip(queries, own, candidates, best, strict=True):
            there = slots[(slots >= 0) & (slots != itself)]
            order = np.argsort(-(self._vectors[there] @ query), kind="stable")[:K]
            row[: len(order)] = there[order]
        return best


def fastest(measured: Sequence[TuningResult], *, recall: float) -> TuningResult:
    """Return the fastest result that reaches `recall`, else the one with the highest recall."""
    enough = [one for one in measured if one.recall >= recall]
    if enough:
        return min(enough, key=lambda one: one.p50_ms)
    return max(measured, key=lambda one: one.recall)
