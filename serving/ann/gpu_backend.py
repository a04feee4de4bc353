"""Exact search in the memory of a GPU, where there is one and the vectors fit; anything else as without it.

Its parts are tested with an index of the processor in place of the GPU's. No GPU was at hand to run it on.
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
from hardrank.serving.ann.brute_force import completed, nearest_in_range
from hardrank.serving.ann.faiss_kinds import FEWEST
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from hardrank.serving.store.snapshot import Snapshot

_LOG: Final = logging.getLogger(__name__)
_BLOCK: Final = 16_384
_MOST: Final = 2048
"""Results that FAISS gives on a GPU at most."""

MakeIndex = Callable[[int], Any]
"""D → an empty FAISS index of inner products."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Held:
    """Vectors on the GPU."""

    index: Any
    slots: Slots
    """(n,): the slot of each, ascending."""
    covered: int
    """Slots below this are there, unless they were dead then."""


class GpuBackend:
    """See `Backend`. `within` searches what the GPU does not."""

    def __init__(
        self,
        within: Backend,
        options: BackendOptions,
        make: MakeIndex,
        *,
        held: _Held | None = None,
        full: bool = False,
    ) -> None:
        self._within = within
        self._options = options
        self._make = make
        self._held = held
        self._full = full
        """Whether the vectors did not fit."""
        self._one_at_a_time = threading.Lock()

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        held = self._held
        if held is None or label is not None:
            return self._within.candidates(snapshot, queries, count, label=label)
        dead = len(held.slots) - int(np.count_nonzero(snapshot.alive[: held.covered]))
        fetch = min(count + dead, len(held.slots))
        if fetch > _MOST:
            return self._within.candidates(snapshot, queries, count)
        with self._one_at_a_time:  # the scratch memory of a GPU is not made for several threads
            _, found = held.index.search(queries, fetch)
        early = held.slots[found]
        early[~snapshot.alive[early]] = -1
        late = nearest_in_range(queries, snapshot.vectors, count, start=held.covered, alive=snapshot.alive)
        slots = np.concatenate([early, late], axis=1)
        return completed(slots, queries, snapshot.vectors, count, alive=snapshot.alive, there=snapshot.size)

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """See `Backend`."""
        self._within.on_add(rows, vectors, labels)

    def on_delete(self, rows: Slots) -> None:
        """See `Backend`."""
        self._within.on_delete(rows)

    def is_stale(self, snapshot: Snapshot) -> bool:
        """See `Backend`."""
        if self._full:
            return self._within.is_stale(snapshot)
        if self._held is None:
            return snapshot.size >= FEWEST
        dead = len(self._held.slots) - int(np.count_nonzero(snapshot.alive[: self._held.covered]))
        return max(snapshot.slots - self._held.covered, dead) > min(self._options.tail, _MOST // 2)

    def optimized(self, snapshot: Snapshot, task: OptimizeOptions) -> Backend:
        """See `Backend`."""
        if not self._full and (task.anew or self.is_stale(snapshot)):
            try:
                held = self._sent(snapshot, task)
                return GpuBackend(self._within, self._options, self._make, held=held)
            except RuntimeError as error:  # FAISS's for all that goes wrong on a GPU
                _LOG.warning("the vectors cannot be searched on the GPU: %s", error)
        within = self._within.optimized(snapshot, task)
        return GpuBackend(within, self._options, self._make, full=True)

    def save(self, folder: Path, number: int) -> bool:
        """See `Backend`."""
        return self._within.save(folder, number)

    def stats(self) -> BackendStats:
        """See `Backend`."""
        if self._held is None:
            return self._within.stats()
        return BackendStats(name="faiss flat on GPU", parameters={"vectors": len(self._held.slots)})

    def close(self) -> None:
        """See `Backend`."""
        self._within.close()

    def _sent(self, snapshot: Snapshot, task: OptimizeOptions) -> _Held:
        slots = snapshot.live_slots()
        index = self._make(snapshot.vectors.shape[1])
        advance = task.at("sending to the GPU")
        for start in range(0, len(slots), _BLOCK):
            part = slots[start : start + _BLOCK]
            index.add(np.ascontiguousarray(snapshot.vectors[part]))
            advance(start + len(part), len(slots))
        return _Held(index=index, slots=slots, covered=snapshot.slots)


def on_gpu(within: Backend, options: BackendOptions) -> Backend:
    """Put a GPU before a backend, where there is one and exact search is not ruled out."""
    if options.structure not in (AnnKind.AUTO, AnnKind.FLAT) or not _gpus():
        return within
    resources = faiss.StandardGpuResources()
    return GpuBackend(within, options, lambda dimension: faiss.GpuIndexFlatIP(resources, dimension))


def _gpus() -> int:
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0
