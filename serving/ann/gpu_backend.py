"""Exact search in the memory of a GPU if there is one and the vectors fit; otherwise another backend searches.

The tests run it with a CPU index in place of the GPU's, and on a GPU if there is one.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np

from hardrank.serving.ann.backend import Backend, BackendStats, OptimizeOptions, Slots, Vectors
from hardrank.serving.ann.brute_force import complete_rows, nearest_in_range
from hardrank.serving.ann.faiss_kinds import MIN_ITEMS
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from hardrank.serving.store.snapshot import Snapshot

_LOG: Final = logging.getLogger(__name__)
_BLOCK: Final = 16_384
_MAX_RESULTS: Final = 2048
"""Maximum number of results that FAISS returns on a GPU."""

MakeIndex = Callable[[int], Any]
"""D → an empty FAISS index of inner products."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _GpuVectors:
    """The vectors on the GPU."""

    index: Any
    slots: Slots
    """(n,), ascending: the slot of each vector."""
    covered: int
    """All slots below this were sent, unless they were deleted already."""

    def deleted(self, snapshot: Snapshot) -> int:
        """Return how many of the vectors belong to items that were deleted since."""
        return len(self.slots) - int(np.count_nonzero(snapshot.alive[: self.covered]))


class GpuBackend:
    """See `Backend`. `fallback` searches what the GPU does not: labels, many results, vectors that do not fit."""

    def __init__(
        self,
        fallback: Backend,
        options: BackendOptions,
        make_index: MakeIndex,
        *,
        sent: _GpuVectors | None = None,
        full: bool = False,
    ) -> None:
        self._fallback = fallback
        self._options = options
        self._make_index = make_index
        self._sent = sent
        self._full = full
        """Whether the vectors did not fit."""
        self._searching = threading.Lock()

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        sent = self._sent
        if sent is None or label is not None:
            return self._fallback.candidates(snapshot, queries, count, label=label)
        fetch = min(count + sent.deleted(snapshot), len(sent.slots))
        if fetch > _MAX_RESULTS:
            return self._fallback.candidates(snapshot, queries, count)
        with self._searching:  # FAISS's GPU resources must not be used by several threads at once
            _, found = sent.index.search(queries, fetch)
        early = sent.slots[found]
        early[~snapshot.alive[early]] = -1
        late = nearest_in_range(queries, snapshot.vectors, count, start=sent.covered, alive=snapshot.alive)
        slots = np.concatenate([early, late], axis=1)
        return complete_rows(slots, queries, snapshot.vectors, count, alive=snapshot.alive, existing=snapshot.size)

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """See `Backend`."""
        self._fallback.on_add(rows, vectors, labels)

    def on_delete(self, rows: Slots) -> None:
        """See `Backend`."""
        self._fallback.on_delete(rows)

    def is_stale(self, snapshot: Snapshot) -> bool:
        """See `Backend`."""
        if self._full:
            return self._fallback.is_stale(snapshot)
        if self._sent is None:
            return snapshot.size >= MIN_ITEMS
        return max(snapshot.slots - self._sent.covered, self._sent.deleted(snapshot)) > min(
            self._options.tail, _MAX_RESULTS // 2
        )

    def optimized(self, snapshot: Snapshot, options: OptimizeOptions) -> Backend:
        """See `Backend`."""
        if not self._full and (options.rebuild or self.is_stale(snapshot)):
            try:
                sent = self._send(snapshot, options)
                return GpuBackend(self._fallback, self._options, self._make_index, sent=sent)
            except RuntimeError as error:  # FAISS raises it for every failure on a GPU
                _LOG.warning("the vectors are searched without the GPU: %s", error)
        fallback = self._fallback.optimized(snapshot, options)
        return GpuBackend(fallback, self._options, self._make_index, full=True)

    def save(self, folder: Path, number: int) -> bool:
        """See `Backend`."""
        return self._fallback.save(folder, number)

    def stats(self) -> BackendStats:
        """See `Backend`."""
        if self._sent is None:
            return self._fallback.stats()
        return BackendStats(name="faiss flat on GPU", parameters={"vectors": len(self._sent.slots)})

    def close(self) -> None:
        """See `Backend`."""
        self._fallback.close()

    def _send(self, snapshot: Snapshot, options: OptimizeOptions) -> _GpuVectors:
        slots = snapshot.live_slots()
        index = self._make_index(snapshot.vectors.shape[1])
        progress = options.report("sending to the GPU")
        for start in range(0, len(slots), _BLOCK):
            part = slots[start : start + _BLOCK]
            index.add(np.ascontiguousarray(snapshot.vectors[part]))
            progress(start + len(part), len(slots))
        return _GpuVectors(index=index, slots=slots, covered=snapshot.slots)


def with_gpu(fallback: Backend, options: BackendOptions, *, make_index: MakeIndex | None = None) -> Backend:
    """Put a GPU in front of a backend if there is one and the options allow exact search; else return `fallback`.

    `make_index` makes the index on the GPU; None: FAISS's, if it finds a GPU.
    """
    if options.structure not in (AnnKind.AUTO, AnnKind.FLAT):
        return fallback
    make_index = make_index or gpu_index_maker()
    return fallback if make_index is None else GpuBackend(fallback, options, make_index)


def gpu_index_maker() -> MakeIndex | None:
    """Return what makes FAISS indexes on the first GPU; None if FAISS finds no GPU or was built without support."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    resources = faiss.StandardGpuResources()
    return lambda dimension: faiss.GpuIndexFlatIP(resources, dimension)
