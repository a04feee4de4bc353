"""What every backend does: name candidates for a query among the vectors of a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serving.snapshot import Snapshot

Vectors = npt.NDArray[np.float32]
Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BackendStats:
    """What a backend says of itself."""

    name: str
    """As `faiss flat`."""
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    """What it was built and is searched with."""
    memory_bytes: int = 0
    """Bytes of its own in this process, the vectors' file apart."""


class Backend(Protocol):
    """Finds candidates; the index scores them exactly from the vectors' file, so a backend may approximate.

    `candidates` is called by many threads at once. The other calls come one at a time, from the writer.
    """

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """Give slots (Q,C) of living items, with the label where one is given, for queries (Q,D) of norm 1.

        The `count` nearest should be among them, in any order; C may be larger. −1 fills a row of fewer.
        """

    def adding(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """Take vectors (n,D) of items that are about to be committed.

        A commit that fails afterwards leaves vectors that belong to nobody: the backend must not mind, and takes others
        for the same rows later.
        """

    def deleted(self, rows: Slots) -> None:
        """Let go of the vectors of items that were deleted."""

    def stats(self) -> BackendStats:
        """Say what this is and what it takes."""

    def close(self) -> None:
        """Let go of what the process holds."""
