"""FAISS in this process: exact search while that is fast, then an approximate structure and an exact tail.

The structure covers the slots below a mark. Items added later are compared exactly, until there are so many that they
are folded into a copy of the structure; a deleted item is passed over by a bit of the snapshot. So nothing that is
searched ever changes.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.ann.backend import BackendStats, OptimizeOptions, Slots, Vectors
from hardrank.serving.ann.brute_force import completed, nearest_among, nearest_in_range
from hardrank.serving.ann.faiss_index import FaissIndex, build, load
from hardrank.serving.ann.faiss_kinds import FAISS_KINDS, FEWEST, SearchEffort
from hardrank.serving.ann.faiss_record import FaissRecord, read_record, structure_path, write_record
from hardrank.serving.ann.tuning import TuningQueries, TuningResult, best
from hardrank.serving.store.errors import IndexDamagedError
from hardrank.serving.store.item_table import TableState
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from hardrank.serving.store.snapshot import Snapshot

_LOG: Final = logging.getLogger(__name__)
_MANY: Final = 20
"""Asked for more than one item in so many, exact search is not slower."""
_DEAD_WEIGHT: Final = 0.3
"""Share of deleted vectors in a structure that cannot take them out, above which it is built anew."""
_GROWTH: Final = 2.0
"""Times its size when built that a structure may grow to before its centres are learnt again."""
_UNSAVED: Final = 0.05
"""Share of items folded in since a structure was saved, above which it is saved again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Structure:
    """A structure, how it came about, and how much of it lies on the disk."""

    found: FaissIndex
    record: FaissRecord
    saved: int
    """Slots that the saved file covers; 0: none."""


class FaissBackend:
    """See `Backend`."""

    def __init__(self, options: BackendOptions, structure: _Structure | None = None) -> None:
        self._options = options
        self._structure = structure

    @classmethod
    def load(cls, folder: Path, options: BackendOptions, state: TableState) -> "FaissBackend":
        """Read the structure in force; where it is missing or damaged, search exactly until it is built again."""
        if not state.structure:
            return cls(options)
        path = structure_path(folder, state.structure)
        try:
            record = read_record(path)
            if record.volume != state.volume or record.covered > state.slots:
                raise IndexDamagedError(f"{path} belongs to another state of the index")
            effort = SearchEffort(width=record.width, fetch=record.fetch)
            found = load(record.structure, path, covered=record.covered, effort=effort)
        except (IndexDamagedError, RuntimeError) as error:
            _LOG.warning("%s; searches are exact, and slower, until the index is compacted", error)
            return cls(options)
        return cls(options, _Structure(found=found, record=record, saved=record.covered))

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        own = None if label is None else snapshot.slots_labelled(label)
        there = snapshot.size if own is None else len(own)
        if own is not None and len(own) <= self._fast(snapshot):
            return nearest_among(queries, snapshot.vectors, count, slots=own)
        alive = snapshot.alive if own is None else _marked(own, snapshot.slots)
        if self._structure is None or count * _MANY > there:
            return nearest_in_range(queries, snapshot.vectors, count, start=0, alive=alive)
        found = self._structure.found
        bits = np.packbits(alive, bitorder="little") if own is not None else self._dead_bits(snapshot)
        early = found.search(queries, count, allowed=bits, share=there / snapshot.size)
        late = nearest_in_range(queries, snapshot.vectors, count, start=found.covered, alive=alive)
        slots = np.concatenate([early, late], axis=1)
        return completed(slots, queries, snapshot.vectors, count, alive=alive, there=there)

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """Nothing to do: the file of vectors is all that is needed."""

    def on_delete(self, rows: Slots) -> None:
        """Nothing to do: snapshots know what is alive."""

    def is_stale(self, snapshot: Snapshot) -> bool:
        """See `Backend`."""
        if self._structure is None:
            return self._wanted(snapshot) is not AnnKind.FLAT
        return snapshot.slots - self._structure.found.covered > self._options.tail or self._is_worn(snapshot)

    def optimized(self, snapshot: Snapshot, task: OptimizeOptions) -> "FaissBackend":
        """See `Backend`."""
        if self._wanted(snapshot) is AnnKind.FLAT and (task.anew or self._structure is None):
            return self if self._structure is None else FaissBackend(self._options)
        if self._structure is None or task.anew or self._is_worn(snapshot):
            return FaissBackend(self._options, self._built(snapshot, task))
        if not self.is_stale(snapshot):
            return self
        found = self._structure.found.folded(snapshot.vectors, snapshot.alive, threads=task.threads)
        return FaissBackend(self._options, replace(self._structure, found=found))

    def save(self, folder: Path, number: int) -> bool:
        """See `Backend`."""
        one = self._structure
        if one is None or one.found.covered - one.saved <= max(
            _UNSAVED * one.saved, self._options.tail * bool(one.saved)
        ):
            return False
        path = structure_path(folder, number)
        one.found.save(path)
        write_record(one.record.model_copy(update={"covered": one.found.covered}), path)
        self._structure = replace(one, saved=one.found.covered)
        return True

    def stats(self) -> BackendStats:
        """See `Backend`."""
        if self._structure is None:
            return BackendStats(name=f"faiss {AnnKind.FLAT}")
        record, found = self._structure.record, self._structure.found
        return BackendStats(
            name=f"faiss {found.structure}",
            parameters={
                **record.built_with,
                "width": record.width,
                "fetch": record.fetch,
                "recall": round(min(record.recall_items, record.recall_between), 4),
                "p50_ms": round(record.p50_ms, 3),
            },
            memory_bytes=found.memory_bytes,
        )

    def close(self) -> None:
        """Nothing to let go of: memory goes with the last search."""

    def _wanted(self, snapshot: Snapshot) -> AnnKind:
        """Say which structure these items call for; `AUTO`: one that is to be chosen."""
        if snapshot.size < FEWEST:
            return AnnKind.FLAT
        if self._options.structure is not AnnKind.AUTO:
            return self._options.structure
        return AnnKind.FLAT if snapshot.size <= self._fast(snapshot) else AnnKind.AUTO

    def _fast(self, snapshot: Snapshot) -> int:
        """Items that are compared exactly without being slow."""
        return self._options.flat_bytes // (4 * int(snapshot.vectors.shape[1]))

    def _is_worn(self, snapshot: Snapshot) -> bool:
        one = self._structure
        if one is None:
            return False
        dead = one.found.size - int(np.count_nonzero(snapshot.alive[: one.found.covered]))
        heavy = dead > _DEAD_WEIGHT * one.found.size and not FAISS_KINDS[one.found.structure].removes
        return heavy or snapshot.size > _GROWTH * one.record.items

    def _dead_bits(self, snapshot: Snapshot) -> npt.NDArray[np.uint8] | None:
        """Give the bits of living slots; None where the structure holds nothing dead."""
        assert self._structure is not None
        found = self._structure.found
        return None if np.count_nonzero(snapshot.alive[: found.covered]) == found.size else snapshot.alive_bits

    def _built(self, snapshot: Snapshot, task: OptimizeOptions) -> _Structure:
        """Build the structure that is asked for, or all that come into question, and keep the best."""
        began = time.perf_counter()
        slots = snapshot.live_slots()
        trial = TuningQueries(snapshot.vectors, slots)
        wanted = self._options.structure
        kinds = (
            [wanted]
            if wanted in FAISS_KINDS
            else [one for one, kind in FAISS_KINDS.items() if kind.largest >= len(slots)]
        )
        measured: list[TuningResult] = []
        found: FaissIndex | None = None
        for kind in kinds:
            # Of a large gallery, no more than two structures fit in memory: the best so far, and the one that is tried.
            latest = build(
                kind,
                snapshot.vectors,
                slots,
                covered=snapshot.slots,
                threads=task.threads,
                like=found,
                advance=task.at(f"building {kind}"),
            )
            latest, tried = trial.tune(latest, recall=self._options.recall)
            measured += tried
            chosen = best(measured, recall=self._options.recall)
            found = latest if found is None or chosen in tried else found
        assert found is not None
        record = FaissRecord(
            structure=found.structure,
            built_with=FAISS_KINDS[found.structure].describe(found.index),
            width=chosen.width,
            fetch=chosen.fetch,
            recall_items=chosen.recall_items,
            recall_between=chosen.recall_between,
            p50_ms=chosen.p50_ms,
            items=len(slots),
            seconds=round(time.perf_counter() - began, 3),
            measured=[one.to_dict() for one in measured],
            volume=snapshot.state.volume,
            covered=snapshot.slots,
        )
        return _Structure(found=found, record=record, saved=0)


def _marked(slots: Slots, count: int) -> npt.NDArray[np.bool_]:
    marks = np.zeros(count, dtype=np.bool_)
    marks[slots] = True
    return marks
