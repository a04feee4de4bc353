"""What every backend does: name candidates for a query among the vectors of a snapshot."""

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
"""Called with (stage, done, total)."""


@dataclass(frozen=True, kw_only=True)
class BackendStats:
    """What a backend says of itself."""

    name: str
    """As `faiss flat`."""
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    """What it was built and is searched with."""
    memory_bytes: int = 0
    """Bytes of its own in this process, the vectors' file apart."""


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions:
    """How to settle."""

    anew: bool = False
    """Whether to build again what would still do."""
    threads: int = 0
    """Threads to work with; 0: one for each core."""
    progress: ShowProgress | None = None
    """Called as it goes on."""

    def at(self, stage: str) -> Callable[[int, int], None]:
        """Give what reports a stage, called with (done, total)."""
        progress = self.progress
        return (
            (lambda done, total: progress(stage, done, total)) if progress is not None else (lambda done, total: None)
        )


class Backend(Protocol):
    """Finds candidates; the index scores them exactly from the vectors' file, so a backend may approximate.

    `candidates` is called by many threads at once. The other calls come one at a time.
    """

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """Give slots (Q,C) of living items, with the label where one is given, for queries (Q,D) of norm 1.

        The `count` nearest should be among them, in any order; C may be larger. −1 fills a row of fewer.
        """

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """Take vectors (n,D) of items that are about to be committed.

        A commit that fails afterwards leaves vectors that belong to nobody: the backend must not mind, and takes others
        for the same rows later.
        """

    def on_delete(self, rows: Slots) -> None:
        """Let go of the vectors of items that were deleted."""

    def is_stale(self, snapshot: Snapshot) -> bool:
        """Whether `optimized` has something to do."""

    def optimized(self, snapshot: Snapshot, task: OptimizeOptions) -> "Backend":
        """Give a backend that fits what the snapshot holds; may take minutes. This one goes on searching meanwhile."""

    def save(self, folder: Path, number: int) -> bool:
        """Write what `optimized` made to `folder` under a number, where there is something unsaved; says whether."""

    def stats(self) -> BackendStats:
        """Say what this is and what it takes."""

    def close(self) -> None:
        """Let go of what the process holds."""
