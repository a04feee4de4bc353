"""FAISS in this process."""

from collections.abc import Sequence

from serving.index.backend import BackendStats, Slots, Vectors
from serving.index.exact import nearest_among, nearest_in_range
from serving.snapshot import Snapshot


class FlatBackend:
    """Exact search over the vectors' file itself: nothing to build, nothing in memory."""

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        if label is not None:
            return nearest_among(queries, snapshot.vectors, count, slots=snapshot.slots_labelled(label))
        return nearest_in_range(queries, snapshot.vectors, count, start=0, alive=snapshot.alive)

    def adding(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """Nothing to do: the file of vectors is all there is."""

    def deleted(self, rows: Slots) -> None:
        """Nothing to do: snapshots know what is alive."""

    def stats(self) -> BackendStats:
        """See `Backend`."""
        return BackendStats(name="flat")

    def close(self) -> None:
        """Nothing to let go of."""
