"""Milvus: a Milvus Lite file on this machine, or a cluster, by the same code.

The collection holds what can be derived: row (the primary key), vector, and a number that stands for the label. The
table of items remains the truth. Vectors go in before the commit that owns them and out after the one that deletes
them, so a crash leaves at most vectors of nobody: they are passed over, and removed when the index is opened for
writing the next time.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from hardrank.serving.ann.backend import BackendStats, OptimizeOptions, Slots, Vectors
from hardrank.serving.ann.brute_force import completed, nearest_in_range
from hardrank.serving.store.errors import BackendError
from hardrank.serving.store.manifest import AnnKind, BackendOptions, IndexManifest
from hardrank.serving.store.snapshot import Snapshot

LITE_FILE: Final = "milvus.db"
"""Where Milvus Lite keeps an index that names no other place, in the index's folder."""

_SENT: Final = 1000
"""Vectors sent at once: at D = 2048 some 8 MiB, below the limit of a message."""
_SPARE: Final = 8
_MOST: Final = 16_384
"""Results that Milvus gives at most."""
_RANGE: Final = 10_000
_METRIC: Final = "COSINE"
_LISTS: Final = 1024

_INDEXES: Final[Mapping[AnnKind, tuple[str, Callable[[int], dict[str, int]]]]] = {
    AnnKind.AUTO: ("AUTOINDEX", lambda dimension: {}),
    AnnKind.FLAT: ("FLAT", lambda dimension: {}),
    AnnKind.HNSW: ("HNSW", lambda dimension: {"M": 32, "efConstruction": 200}),
    AnnKind.IVF_SQ8: ("IVF_SQ8", lambda dimension: {"nlist": _LISTS}),
    AnnKind.IVF_PQ: ("IVF_PQ", lambda dimension: {"nlist": _LISTS, "m": max(1, dimension // 8), "nbits": 8}),
}
_EFFORTS: Final[Mapping[AnnKind, Callable[[int], dict[str, int]]]] = {
    AnnKind.AUTO: lambda count: {},
    AnnKind.FLAT: lambda count: {},
    AnnKind.HNSW: lambda count: {"ef": max(128, 2 * count)},
    AnnKind.IVF_SQ8: lambda count: {"nprobe": 64},
    AnnKind.IVF_PQ: lambda count: {"nprobe": 64},
}


class MilvusBackend:
    """See `Backend`."""

    def __init__(self, client: Any, manifest: IndexManifest, place: str, *, writable: bool) -> None:
        self._client = client
        self._options = manifest.backend
        self._collection = _collection(manifest)
        self._place = place
        self._unsure = writable
        """Whether the collection may differ from the table, and is to be compared with it."""

    @classmethod
    def open(cls, folder: Path, manifest: IndexManifest, *, writable: bool) -> "MilvusBackend":
        """Connect, and make the collection where it is not there; raises `BackendError`."""
        place = _place(folder, manifest.backend.uri)
        client = _connect(place, manifest.backend)
        backend = cls(client, manifest, place, writable=writable)
        with backend._asking():
            backend._make_ready(manifest, writable)
        return backend

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        alive = snapshot.alive if label is None else _only(snapshot, snapshot.slots_labelled(label))
        there = snapshot.size if label is None else int(np.count_nonzero(alive))
        if count + _SPARE > _MOST:
            return nearest_in_range(queries, snapshot.vectors, count, start=0, alive=alive)
        rows = self._search(snapshot, queries, min(count + _SPARE, _MOST), label)
        slots = snapshot.slots_of(rows)
        slots[~alive[slots] | (slots < 0)] = -1
        return completed(slots, queries, snapshot.vectors, count, alive=alive, there=there)

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """See `Backend`."""
        with self._asking():
            for start in range(0, len(rows), _SENT):
                part = slice(start, start + _SENT)
                data = [
                    {"row": int(row), "vector": vector, "label": _number(label)}
                    for row, vector, label in zip(rows[part], vectors[part], labels[part], strict=True)
                ]
                self._client.upsert(self._collection, data)

    def on_delete(self, rows: Slots) -> None:
        """See `Backend`."""
        self._unsure = True  # until it is done: the table has deleted them already
        self._remove(rows)
        self._unsure = False

    def is_stale(self, snapshot: Snapshot) -> bool:
        """See `Backend`."""
        return self._unsure

    def optimized(self, snapshot: Snapshot, task: OptimizeOptions) -> "MilvusBackend":
        """Make the collection hold what the snapshot does: after a crash, or in a Milvus that is new to the index."""
        with self._asking():
            known = f"row < {snapshot.state.next_row}"
            found = self._client.query(self._collection, filter=known, output_fields=["count(*)"])
            if found[0]["count(*)"] != snapshot.size or task.anew:
                self._reconcile(snapshot, task)
        self._unsure = False
        return self

    def save(self, folder: Path, number: int) -> bool:
        """Nothing to do: Milvus keeps what it has."""
        return False

    def stats(self) -> BackendStats:
        """See `Backend`."""
        index, _ = _INDEXES[self._options.structure]
        return BackendStats(name="milvus", parameters={"index": index, "collection": self._collection})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _make_ready(self, manifest: IndexManifest, writable: bool) -> None:
        """See that the collection is there and can be searched."""
        if not self._client.has_collection(self._collection):
            if not writable:
                raise BackendError(
                    f"{self._place} has no collection {self._collection}; open the index for writing to fill it"
                )
            self._create(manifest)
        self._client.load_collection(self._collection)

    def _create(self, manifest: IndexManifest) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("label", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=manifest.dimension)
        kind, parameters = _INDEXES[self._options.structure]
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type=kind, metric_type=_METRIC, params=parameters(manifest.dimension))
        self._client.create_collection(self._collection, schema=schema, index_params=index, consistency_level="Strong")

    def _search(self, snapshot: Snapshot, queries: Vectors, count: int, label: str | None) -> Slots:
        """Give rows (Q,count), −1 where there are fewer."""
        among = f"row < {snapshot.state.next_row}" + ("" if label is None else f" and label == {_number(label)}")
        with self._asking():
            found = self._client.search(
                self._collection,
                data=list(queries),
                anns_field="vector",
                limit=count,
                filter=among,
                output_fields=["row"],
                search_params={"metric_type": _METRIC, "params": _EFFORTS[self._options.structure](count)},
                consistency_level="Strong",
            )
        rows = np.full((len(queries), count), -1, dtype=np.int64)
        for own, hits in zip(rows, found, strict=True):
            own[: len(hits)] = [hit["row"] for hit in hits]
        return rows

    def _reconcile(self, snapshot: Snapshot, task: OptimizeOptions) -> None:
        """Remove vectors of nobody and add those that are missing, of the rows that the snapshot speaks of."""
        held = np.array(sorted(self._rows(snapshot.state.next_row)), dtype=np.int64)
        slots = snapshot.slots_of(held)
        self._remove(held[(slots < 0) | ~snapshot.alive[slots]])
        live = snapshot.live_slots()
        missing = live[~np.isin(snapshot.rows_of(live), held)]
        names = {code: name for name, code in snapshot.label_codes.items()}
        advance = task.at("sending to Milvus")
        for start in range(0, len(missing), _SENT):
            part = missing[start : start + _SENT]
            labels = [names.get(int(code)) for code in snapshot.labels[part]]
            self.on_add(snapshot.rows_of(part), snapshot.vectors[part], labels)
            advance(start + len(part), len(missing))

    def _rows(self, until: int) -> Iterator[int]:
        """Give the rows below `until` that the collection holds; in ranges, for one answer holds so many at most."""
        for start in range(0, until, _RANGE):
            among = f"row >= {start} and row < {min(until, start + _RANGE)}"
            found = self._client.query(self._collection, filter=among, output_fields=["row"])
            yield from (one["row"] for one in found)

    def _remove(self, rows: Slots) -> None:
        with self._asking():
            for start in range(0, len(rows), _SENT):
                self._client.delete(self._collection, ids=[int(row) for row in rows[start : start + _SENT]])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what Milvus raises into `BackendError`."""
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise BackendError(f"Milvus at {self._place} refused or did not answer: {error.message}") from error


def _connect(place: str, options: BackendOptions) -> Any:
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        raise BackendError("the Milvus backend needs pymilvus: pip install 'hardrank[milvus]'") from error
    token = ""
    if options.token_variable is not None:
        token = os.environ.get(options.token_variable, "")
        if not token:
            raise BackendError(f"the environment variable {options.token_variable} is empty; put Milvus's token in it")
    try:
        return MilvusClient(uri=place, token=token)
    except (MilvusException, OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"Milvus at {place} cannot be opened: {error}") from error


def _place(folder: Path, uri: str | None) -> str:
    """Give the address: a file that is not named in full lies in the index's folder."""
    if uri is not None and "://" in uri:
        return uri
    return str(folder.resolve() / (uri or LITE_FILE))


def _collection(manifest: IndexManifest) -> str:
    """Name the collection of an index: no other index has the same model and moment of creation."""
    mark = f"{manifest.model_sha256} {manifest.created.isoformat()}"
    return f"{manifest.backend.collection}_{hashlib.sha256(mark.encode()).hexdigest()[:12]}"


def _number(label: str | None) -> int:
    """Stand for a label in filters, which thus need no quoting; 0: none."""
    if label is None:
        return 0
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big", signed=True)


def _only(snapshot: Snapshot, slots: Slots) -> Any:
    marks = np.zeros(snapshot.slots, dtype=np.bool_)
    marks[slots] = True
    return marks
