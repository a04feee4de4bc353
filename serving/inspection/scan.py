"""Scan an index for hubs, and compare it with the index of another model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.inspection.hubs import hub_scores, k_occurrences
from hardrank.serving.inspection.neighbors import neighbor_overlaps


class ScanError(HardrankError):
    """Options out of range, or indexes that have too few items in common."""


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How an index is scanned. Raises `ScanError` for values out of range."""

    k: int = 10
    """Neighbors of an item."""
    threshold: float = 2.9
    """Robust z-score above which an item is suspicious."""
    queries: int = 20_000
    """Largest number of items to search with; a random sample if the index has more."""
    seed: int = 0
    """Seed of the sample."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.queries < 1 or not self.threshold > 0:
            raise ScanError(
                f"k is {self.k}, queries {self.queries}, threshold {self.threshold}; give at least 1, 1 and more than 0"
            )


@dataclass(frozen=True, kw_only=True)
class Hub:
    """An item that is among the nearest of unusually many."""

    id: str
    label: str | None
    occurrences: int
    """Items that have it among their k nearest."""
    score: float
    """Robust z-score that was compared with the threshold."""
    overall: float
    in_label: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An item whose neighbors two models see differently."""

    id: str
    label: str | None
    overlap: float
    """Share of its k nearest that the models have in common."""


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What a scan found."""

    items: int
    queries: int
    k: int
    threshold: float
    expected_occurrences: float
    """Mean of the occurrences of all items."""
    hubs: Sequence[Hub]
    """Above the threshold, highest score first."""
    disagreements: Sequence[Disagreement] = ()
    """All compared items, least overlap first; empty if there was no other index."""


def scan(index: SearchIndex, options: ScanOptions | None = None, *, other: SearchIndex | None = None) -> ScanResult:
    """Find hubs in an index, and the items whose neighbors differ most from those in another.

    Args:
        index: The index; with `other`, only the items that both have are scanned.
        options: None for the defaults.
        other: Index of another model of the same gallery.

    Raises:
        ScanError: There are fewer than three items (in both indexes).
    """
    options = options or ScanOptions()
    listed = index.list_items()
    if other is not None:
        shared = other.rows([item.id for item in listed])
        listed = [item for item in listed if item.id in shared]
    if len(listed) < 3:
        raise ScanError(f"{len(listed)} items to compare; a scan needs at least 3 (in both indexes)")
    ids = [item.id for item in listed]
    queries = _sample(len(ids), options)
    vectors = index.vectors(ids)
    found = k_occurrences(vectors, options.k, queries=queries)
    names = {label: number for number, label in enumerate(sorted({item.label for item in listed if item.label}))}
    labels = np.array([names.get(item.label or "", -1) for item in listed], dtype=np.int32)
    scores = hub_scores(vectors, labels, found)
    combined = scores.combined
    suspicious = [n for n in np.argsort(-combined, kind="stable") if combined[n] > options.threshold]
    hubs = [
        Hub(
            id=ids[n],
            label=listed[n].label,
            occurrences=int(found.counts[n]),
            score=round(float(combined[n]), 2),
            overall=round(float(scores.overall[n]), 2),
            in_label=round(float(scores.in_label[n]), 2),
        )
        for n in suspicious
    ]
    disagreements: list[Disagreement] = []
    if other is not None:
        overlaps = neighbor_overlaps(found, k_occurrences(other.vectors(ids), options.k, queries=queries))
        disagreements = [
            Disagreement(id=ids[n], label=listed[n].label, overlap=round(float(overlap), 4))
            for n, overlap in sorted(zip(queries.tolist(), overlaps, strict=True), key=lambda pair: pair[1])
        ]
    return ScanResult(
        items=len(ids),
        queries=found.queries,
        k=options.k,
        threshold=options.threshold,
        expected_occurrences=round(found.expected, 3),
        hubs=hubs,
        disagreements=disagreements,
    )


def _sample(count: int, options: ScanOptions) -> npt.NDArray[np.int64]:
    if count <= options.queries:
        return np.arange(count)
    return np.sort(np.random.default_rng(options.seed).choice(count, options.queries, replace=False))
