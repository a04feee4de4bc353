"""What an index holds and takes."""

from dataclasses import dataclass, field
from pathlib import Path

from hardrank.serving.index.state import IndexState


@dataclass(frozen=True, kw_only=True)
class IndexStats:
    """What an index holds and takes."""

    size: int
    """Items."""
    dimension: int
    """D, coordinates of a vector."""
    backend: str
    """As `flat`."""
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    """Of the backend."""
    disk_bytes: int
    """Bytes of the index's files, as allocated."""
    vector_bytes: int
    """Bytes of the vectors, which are mapped from their file and may be dropped from memory."""
    memory_bytes: int
    """Bytes that the backend and the snapshot keep in memory."""
    deleted: int
    """Deleted items whose vectors still lie in the file; compaction removes them."""
    generation: int
    """Commits so far."""


def index_stats(holdings: IndexState) -> IndexStats:
    """Measure an open index."""
    current = holdings.current
    snapshot, backend = current.snapshot, current.backend.stats()
    return IndexStats(
        size=snapshot.size,
        dimension=holdings.manifest.dimension,
        backend=backend.name,
        parameters=backend.parameters,
        disk_bytes=_allocated(holdings.folder),
        vector_bytes=snapshot.vectors.nbytes,
        memory_bytes=backend.memory_bytes + snapshot.memory_bytes,
        deleted=snapshot.dead,
        generation=snapshot.state.generation,
    )


def _allocated(folder: Path) -> int:
    """Bytes of the disk that the files below a folder take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # a file of a write in progress
    return total
