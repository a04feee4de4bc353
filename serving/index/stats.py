"""Size and resource use of an index."""

from dataclasses import dataclass, field
from pathlib import Path

from hardrank.serving.index.state import IndexState


@dataclass(frozen=True, kw_only=True)
class IndexStats:
    """Size and resource use of an index."""

    size: int
    """Number of items."""
    dimension: int
    """D, the length of a vector."""
    backend: str
    """Name of the backend, such as `faiss flat`."""
    parameters: dict[str, str | int | float] = field(default_factory=dict)
    """Parameters of the backend."""
    disk_bytes: int
    """Bytes allocated on disk for the index's files."""
    vector_bytes: int
    """Bytes of the vectors, which are mapped from their file; the system may drop them from memory."""
    memory_bytes: int
    """Bytes in memory of the backend and the snapshot."""
    deleted: int
    """Number of deleted items whose vectors are still in the file; compaction removes them."""
    generation: int
    """Number of commits so far."""


def index_stats(state: IndexState) -> IndexStats:
    """Measure an open index."""
    current = state.current
    snapshot, backend = current.snapshot, current.backend.stats()
    return IndexStats(
        size=snapshot.size,
        dimension=state.manifest.dimension,
        backend=backend.name,
        parameters=backend.parameters,
        disk_bytes=_allocated(state.folder),
        vector_bytes=snapshot.vectors.nbytes,
        memory_bytes=backend.memory_bytes + snapshot.memory_bytes,
        deleted=snapshot.deleted,
        generation=snapshot.state.generation,
    )


def _allocated(folder: Path) -> int:
    """Return the bytes on disk of the files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # a temporary file of a write in progress
    return total
