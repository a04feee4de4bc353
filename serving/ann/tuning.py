"""Choosing a structure and its effort by what is measured on the gallery itself.

Recall@10 is the share of a query's ten nearest items, by exact search, that a structure finds. Half of the queries are
vectors of the gallery, each left out of its own results; they lie where items are dense, and are easy. The others lie
between two items drawn at random, as images of unseen classes do, and attacked ones. What counts is the lower recall of
the two halves. Latency is that of one query at a time on one thread, candidates scored exactly, as searches do.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Final

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
    """What a structure reaches with an effort."""

    structure: str
    width: int
    """See `SearchEffort`."""
    fetch: int
    """See `SearchEffort`."""
    recall_items: float
    """recall@10 of queries that are items, 0 to 1."""
    recall_between: float
    """recall@10 of queries between two items, 0 to 1."""
    p50_ms: float
    """Median time of a query, milliseconds."""

    @property
    def recall(self) -> float:
        """The lower of both."""
        return min(self.recall_items, self.recall_between)

    @property
    def effort(self) -> SearchEffort:
        """Give the effort that was measured."""
        return SearchEffort(width=self.width, fetch=self.fetch)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for the record."""
        return asdict(self)


class TuningQueries:
    """Queries drawn from the gallery, with their true neighbours."""

    def __init__(self, vectors: Vectors, slots: Slots) -> None:
        """Draw from the living `slots` (n,) of `vectors` (S,D), n > 10."""
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

    def tune(self, candidate: FaissIndex, *, recall: float) -> tuple[FaissIndex, list[TuningResult]]:
        """Give the candidate with its fastest effort that reaches `recall`, or else its best; and all measurements."""
        kind = FAISS_KINDS[candidate.structure]
        measured: list[TuningResult] = []
        for fetch in kind.fetches:
            for width in kind.widths:
                measured.append(self.measure(replace(candidate, effort=SearchEffort(width=width, fetch=fetch))))
                if measured[-1].recall >= recall:
                    break
        return replace(candidate, effort=best(measured, recall=recall).effort), measured

    def measure(self, candidate: FaissIndex) -> TuningResult:
        """Measure recall and latency."""
        times: list[float] = []
        shares: list[float] = []
        for number, query in enumerate(self._queries):
            began = perf_counter()
            found = candidate.search(query[None], K)
            nearest = self._best(query[None], self._own[number : number + 1], found)
            times.append(perf_counter() - began)
            shares.append(len(np.intersect1d(nearest[0], self._true[number])) / K)
        return TuningResult(
            structure=str(candidate.structure),
            width=candidate.effort.width,
            fetch=candidate.effort.fetch,
            recall_items=float(np.mean(shares[: len(shares) // 2])),
            recall_between=float(np.mean(shares[len(shares) // 2 :])),
            p50_ms=1000 * float(np.median(times)),
        )

    def _best(self, queries: Vectors, own: Slots, candidates: Slots) -> Slots:
        """Give the ten best of each query's candidates, itself left out; −1 fills a row."""
        best = np.full((len(queries), K), -1, dtype=np.int64)
        for query, itself, slots, row in zip(queries, own, candidates, best, strict=True):
            there = slots[(slots >= 0) & (slots != itself)]
            order = np.argsort(-(self._vectors[there] @ query), kind="stable")[:K]
            row[: len(order)] = there[order]
        return best


def best(measured: Sequence[TuningResult], *, recall: float) -> TuningResult:
    """Choose the fastest measurement that reaches `recall`, or else the one with the highest."""
    enough = [one for one in measured if one.recall >= recall]
    if enough:
        return min(enough, key=lambda one: one.p50_ms)
    return max(measured, key=lambda one: one.recall)
