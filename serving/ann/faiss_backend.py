"""FAISS in this process: exact search while that is fast, then an approximate index with an exactly searched tail.

The FAISS index covers the slots below a mark. Items added later are compared exactly, until there are so many that a
copy of the index takes them in. Searches skip deleted items by a bit mask of the snapshot. So nothing that is being
searched ever changes.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import BackendStats, OptimizeOptions, Slots, Vectors
from hardrank.serving.ann.brute_force import complete_rows, nearest_among, nearest_in_range
from hardrank.serving.ann.faiss_index import FaissIndex, build, load
from hardrank.serving.ann.faiss_kinds import FAISS_KINDS, MIN_ITEMS, SearchEffort
from hardrank.serving.ann.faiss_record import FaissRecord, index_path, read_record, write_record
from hardrank.serving.ann.tuning import TuningQueries, TuningResult, fastest
from hardrank.serving.store.errors import IndexDamagedError
from hardrank.serving.store.item_table import TableState
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from hardrank.serving.store.snapshot import Snapshot

_LOG: Final = logging.getLogger(__name__)
_EXACT_SHARE: Final = 1 / 20
"""Share of the items above which, as the number of results, exact search is not slower."""
_MAX_DELETED: Final = 0.3
"""Share of deleted vectors above which an index that cannot remove them is rebuilt."""
_MAX_GROWTH: Final = 2.0
"""Growth of the gallery after which centroids are learned again."""
_MAX_UNSAVED: Final = 0.05
"""Share of items added since the index was saved above which it is saved again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _BuiltIndex:
    """A FAISS index, how it was chosen, and how much of it is on disk."""

    index: FaissIndex
    record: FaissRecord
    saved: int
    """Slots that the saved file covers; 0: not saved."""


class FaissBackend:
    """See `Backend`."""

    def __init__(self, options: BackendOptions, built: _BuiltIndex | None = None) -> None:
        self._options = options
        self._built = built

    @classmethod
    def load(cls, folder: Path, options: BackendOptions, state: TableState) -> "FaissBackend":
        """Load the saved index. If it is missing or damaged, search exactly until it is rebuilt."""
        if not state.ann_number:
            return cls(options)
        path = index_path(folder, state.ann_number)
        try:
            record = read_record(path)
            if record.volume != state.volume or record.covered > state.slots:
                raise IndexDamagedError(f"{path} belongs to another state of the index")
            effort = SearchEffort(width=record.width, fetch=record.fetch)
            index = load(record.structure, path, covered=record.covered, effort=effort)
        except (IndexDamagedError, RuntimeError) as error:
            _LOG.warning("%s; searches are exact, and slower, until the index is compacted", error)
            return cls(options)
        return cls(options, _BuiltIndex(index=index, record=record, saved=record.covered))

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        labeled = None if label is None else snapshot.slots_with_label(label)
        existing = snapshot.size if labeled is None else len(labeled)
        if labeled is not None and len(labeled) <= self._max_flat(snapshot):
            return nearest_among(queries, snapshot.vectors, count, slots=labeled)
        allowed = snapshot.alive if labeled is None else snapshot.mask_of(labeled)
        if self._built is None or count > _EXACT_SHARE * existing:
            return nearest_in_range(queries, snapshot.vectors, count, start=0, alive=allowed)
        index = self._built.index
        bits = _live_bits(index, snapshot) if labeled is None else np.packbits(allowed, bitorder="little")
        early = index.search(queries, count, allowed=bits, share=existing / snapshot.size)
        late = nearest_in_range(queries, snapshot.vectors, count, start=index.covered, alive=allowed)
        slots = np.concatenate([early, late], axis=1)
        return complete_rows(slots, queries, snapshot.vectors, count, alive=allowed, existing=existing)

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """Do nothing: the vectors are searched from their file."""

    def on_delete(self, rows: Slots) -> None:
        """Do nothing: the snapshot knows which items are alive."""

    def is_stale(self, snapshot: Snapshot) -> bool:
        """See `Backend`."""
        if self._built is None:
            return self._kind_for(snapshot) is not AnnKind.FLAT
        return snapshot.slots - self._built.index.covered > self._options.tail or self._needs_rebuild(snapshot)

    def optimized(self, snapshot: Snapshot, options: OptimizeOptions) -> "FaissBackend":
        """See `Backend`."""
        if self._kind_for(snapshot) is AnnKind.FLAT and (options.rebuild or self._built is None):
            return self if self._built is None else FaissBackend(self._options)
        if self._built is None or options.rebuild or self._needs_rebuild(snapshot):
            return FaissBackend(self._options, self._build(snapshot, options))
        if not self.is_stale(snapshot):
            return self
        index = self._built.index.extended(snapshot.vectors, snapshot.alive, threads=options.threads)
        return FaissBackend(self._options, replace(self._built, index=index))

    def save(self, folder: Path, number: int) -> bool:
        """See `Backend`."""
        built = self._built
        if built is None:
            return False
        unsaved = built.index.covered - built.saved
        if built.saved and unsaved <= max(_MAX_UNSAVED * built.saved, self._options.tail):
            return False
        path = index_path(folder, number)
        built.index.save(path)
        write_record(built.record.model_copy(update={"covered": built.index.covered}), path)
        self._built = replace(built, saved=built.index.covered)
        return True

    def stats(self) -> BackendStats:
        """See `Backend`."""
        if self._built is None:
            return BackendStats(name=f"faiss {AnnKind.FLAT}")
        record, index = self._built.record, self._built.index
        return BackendStats(
            name=f"faiss {index.kind}",
            parameters={
                **record.built_with,
                "width": record.width,
                "fetch": record.fetch,
                "recall": round(min(record.recall_items, record.recall_between), 4),
                "p50_ms": round(record.p50_ms, 3),
            },
            memory_bytes=index.memory_bytes,
        )

    def close(self) -> None:
        """Do nothing: the memory is released with the last search."""

    def _kind_for(self, snapshot: Snapshot) -> AnnKind:
        """Return the kind of index for these items; `AUTO`: to be chosen by measurement."""
        if snapshot.size < MIN_ITEMS:
            return AnnKind.FLAT
        if self._options.structure is not AnnKind.AUTO:
            return self._options.structure
        return AnnKind.FLAT if snapshot.size <= self._max_flat(snapshot) else AnnKind.AUTO

    def _max_flat(self, snapshot: Snapshot) -> int:
        """Return the number of items up to which exact search is fast."""
        return self._options.flat_bytes // (4 * int(snapshot.vectors.shape[1]))

    def _needs_rebuild(self, snapshot: Snapshot) -> bool:
        if self._built is None:
            return False
        index = self._built.index
        deleted = index.size - int(np.count_nonzero(snapshot.alive[: index.covered]))
        too_many_deleted = deleted > _MAX_DELETED * index.size and not FAISS_KINDS[index.kind].removes
        return too_many_deleted or snapshot.size > _MAX_GROWTH * self._built.record.items

    def _build(self, snapshot: Snapshot, options: OptimizeOptions) -> _BuiltIndex:
        """Build the requested kind, or for `AUTO` every suitable kind, and keep the best."""
        began = time.perf_counter()
        slots = snapshot.live_slots()
        queries = TuningQueries(snapshot.vectors, slots)
        measured: list[TuningResult] = []
        index: FaissIndex | None = None
        for kind in self._kinds_to_build(len(slots)):
            # For a large gallery at most two indexes fit in memory: the best so far, and the one that is measured.
            latest = build(
                kind,
                snapshot.vectors,
                slots,
                covered=snapshot.slots,
                threads=options.threads,
                like=index,
                progress=options.report(f"building {kind}"),
            )
            latest, results = queries.tune(latest, recall=self._options.recall)
            measured += results
            chosen = fastest(measured, recall=self._options.recall)
            index = latest if index is None or chosen in results else index
        assert index is not None
        record = FaissRecord(
            structure=index.kind,
            built_with=FAISS_KINDS[index.kind].describe(index.index),
            width=chosen.width,
            fetch=chosen.fetch,
            recall_items=chosen.recall_items,
            recall_between=chosen.recall_between,
            p50_ms=chosen.p50_ms,
            items=len(slots),
            seconds=round(time.perf_counter() - began, 3),
            measured=[asdict(one) for one in measured],
            volume=snapshot.state.volume,
            covered=snapshot.slots,
        )
        return _BuiltIndex(index=index, record=record, saved=0)

    def _kinds_to_build(self, items: int) -> Sequence[AnnKind]:
        if self._options.structure in FAISS_KINDS:
            return [self._options.structure]
        return [name for name, kind in FAISS_KINDS.items() if kind.max_auto_items >= items]


def _live_bits(index: FaissIndex, snapshot: Snapshot) -> npt.NDArray[np.uint8] | None:
    """Return the bit mask of live slots; None if nothing in the index was deleted."""
    return None if np.count_nonzero(snapshot.alive[: index.covered]) == index.size else snapshot.alive_bits
