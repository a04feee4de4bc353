"""The interface of backends: find candidates for a query among the vectors of a snapshot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hardrank.serving.store.snapshot import Snapshot

Vectors = npt.NDArray[np.float32]
Slots = npt.NDArray[np.int64]
ShowProgress = Callable[[str, int, int], None]
"""Called with (step, done, total)."""


@dataclass(frozen=True, kw_only=True)
class BackendStats:
    """Name, parameters and memory use of a backend."""

    name: str
    """Such as `faiss flat`."""
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    """What it was built with and is searched with."""
    memory_bytes: int = 0
    """Bytes in this process, without the mapped vectors."""


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions:
    """How `Backend.optimized` works."""

    rebuild: bool = False
    """Whether to rebuild even what is not stale."""
    threads: int = 0
    """Number of threads; 0: one per usable core."""
    progress: ShowProgress | None = None

    def report(self, step: str) -> Callable[[int, int], None]:
        """Return what reports the progress of a step, called with (done, total)."""
        progress = self.progress
        return (lambda done, total: progress(step, done, total)) if progress is not None else (lambda done, total: None)


class Backend(Protocol):
    """Finds candidates. The index scores them exactly from the stored vectors, so a backend may approximate.

    Many threads may call `candidates` at once. The other methods are called one at a time.
    """

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """Return candidate slots (Q,C) of live items (with the label, if given) for queries (Q,D) of norm 1.

        The `count` nearest items should be among them, in any order. C may be larger; −1 pads a row that has fewer.
        """

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """Take vectors (n,D) of items that are about to be committed.

        If the commit fails afterwards, the vectors belong to no item: the backend must tolerate that, and accept other
        vectors for the same rows later.
        """

    def on_delete(self, rows: Slots) -> None:
        """Remove the vectors of items whose deletion has been committed."""

    def is_stale(self, snapshot: Snapshot) -> bool:
        """Return whether `optimized` has something to do."""

    def optimized(self, snapshot: Snapshot, options: OptimizeOptions) -> "Backend":
        """Return a backend that fits the snapshot. This may take minutes, while the present one is searched."""

    def save(self, folder: Path, number: int) -> bool:
        """Save what `optimized` built to `folder` under a number, if it is not saved yet; return whether it was."""

    def stats(self) -> BackendStats:
        """Return the name, parameters and memory use."""

    def close(self) -> None:
        """Release connections and other resources."""
