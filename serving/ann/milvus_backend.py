"""Milvus: a Milvus Lite file on this machine, or a cluster, with the same code.

The collection holds derived data: row (the primary key), vector, and a code for the label. The table of items decides
what is indexed. Vectors are inserted before the commit of their items and removed after the commit of their deletion.
So a crash leaves at most vectors that belong to no item: searches skip them, and they are removed when the index is
next opened for writing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from hardrank.serving.ann.backend import BackendStats, OptimizeOptions, Slots, Vectors
from hardrank.serving.ann.brute_force import complete_rows, nearest_among, nearest_in_range
from hardrank.serving.store.errors import BackendError
from hardrank.serving.store.manifest import AnnKind, BackendOptions, IndexManifest
from hardrank.serving.store.snapshot import Snapshot

LITE_FILE: Final = "milvus.db"
"""Default file of Milvus Lite, in the index's folder."""

_BATCH: Final = 1000
"""Vectors per request: about 8 MiB at D = 2048, below the limit of a message."""
_SPARE: Final = 8
_OVERSAMPLING: Final = 2
"""Candidates for each result: an approximate search finds the first half of its results more surely than all."""
_EXACT_SHARE: Final = 20
"""If more than one item in so many is requested, all are compared exactly."""
_MAX_RESULTS: Final = 16_384
"""Maximum number of results of Milvus."""
_RANGE: Final = 10_000
_METRIC: Final = "COSINE"
_LISTS: Final = 1024
_WIDTH: Final = 512
_PROBES: Final = 128
"""Least effort of a search: width of the search in a graph, and lists that are searched. Milvus's own defaults (64 and
10) miss results of queries between two items; `python benchmarks/milvus_recall.py` measures these."""

_INDEXES: Final[Mapping[AnnKind, tuple[str, Callable[[int], dict[str, int]]]]] = {
    AnnKind.AUTO: ("AUTOINDEX", lambda dimension: {}),
    AnnKind.FLAT: ("FLAT", lambda dimension: {}),
    AnnKind.HNSW: ("HNSW", lambda dimension: {"M": 32, "efConstruction": 200}),
    AnnKind.IVF_SQ8: ("IVF_SQ8", lambda dimension: {"nlist": _LISTS}),
    AnnKind.IVF_PQ: ("IVF_PQ", lambda dimension: {"nlist": _LISTS, "m": max(1, dimension // 8), "nbits": 8}),
}
_EFFORTS: Final[Mapping[AnnKind, Callable[[int], dict[str, int]]]] = {
    # AUTOINDEX is HNSW in Milvus and Milvus Lite; where it is not, it ignores the parameter.
    AnnKind.AUTO: lambda count: {"ef": max(_WIDTH, 2 * count)},
    AnnKind.FLAT: lambda count: {},
    AnnKind.HNSW: lambda count: {"ef": max(_WIDTH, 2 * count)},
    AnnKind.IVF_SQ8: lambda count: {"nprobe": min(_LISTS, max(_PROBES, count // 2))},
    AnnKind.IVF_PQ: lambda count: {"nprobe": min(_LISTS, max(_PROBES, count // 2))},
}


class MilvusBackend:
    """See `Backend`."""

    def __init__(self, client: Any, manifest: IndexManifest, uri: str, *, writable: bool) -> None:
        self._client = client
        self._options = manifest.backend
        self._collection = _collection(manifest)
        self._uri = uri
        self._unverified = writable
        """Whether the collection may differ from the table, and must be compared with it."""

    @classmethod
    def open(cls, folder: Path, manifest: IndexManifest, *, writable: bool) -> "MilvusBackend":
        """Connect, and create the collection if it does not exist; raises `BackendError`."""
        uri = _resolve_uri(folder, manifest.backend.uri)
        client = _connect(uri, manifest.backend)
        backend = cls(client, manifest, uri, writable=writable)
        with backend._translated_errors():
            backend._make_ready(manifest, writable)
        return backend

    def candidates(self, snapshot: Snapshot, queries: Vectors, count: int, *, label: str | None = None) -> Slots:
        """See `Backend`."""
        alive = snapshot.alive if label is None else snapshot.mask_of(snapshot.slots_with_label(label))
        existing = snapshot.size if label is None else int(np.count_nonzero(alive))
        if label is not None and existing * snapshot.vectors.shape[1] * 4 <= self._options.flat_bytes:
            # As FAISS does. Filters cost a graph its recall, and reading these vectors here is faster.
            return nearest_among(queries, snapshot.vectors, count, slots=np.flatnonzero(alive))
        if count + _SPARE > _MAX_RESULTS or count * _EXACT_SHARE > existing:
            return nearest_in_range(queries, snapshot.vectors, count, start=0, alive=alive)
        rows = self._search(snapshot, queries, min(_OVERSAMPLING * count + _SPARE, _MAX_RESULTS), label)
        slots = snapshot.slots_of(rows)
        slots[~alive[slots] | (slots < 0)] = -1
        return complete_rows(slots, queries, snapshot.vectors, count, alive=alive, existing=existing)

    def on_add(self, rows: Slots, vectors: Vectors, labels: Sequence[str | None]) -> None:
        """See `Backend`."""
        with self._translated_errors():
            for start in range(0, len(rows), _BATCH):
                part = slice(start, start + _BATCH)
                data = [
                    {"row": int(row), "vector": vector, "label": _label_code(label)}
                    for row, vector, label in zip(rows[part], vectors[part], labels[part], strict=True)
                ]
                self._client.upsert(self._collection, data)

    def on_delete(self, rows: Slots) -> None:
        """See `Backend`."""
        self._unverified = True  # until this is done: the table has deleted them already
        self._remove(rows)
        self._unverified = False

    def is_stale(self, snapshot: Snapshot) -> bool:
        """See `Backend`."""
        return self._unverified

    def optimized(self, snapshot: Snapshot, options: OptimizeOptions) -> "MilvusBackend":
        """Make the collection match the snapshot: after a crash, or for a new Milvus server."""
        with self._translated_errors():
            known = f"row < {snapshot.state.next_row}"
            found = self._client.query(self._collection, filter=known, output_fields=["count(*)"])
            if found[0]["count(*)"] != snapshot.size or options.rebuild:
                self._reconcile(snapshot, options)
        self._unverified = False
        return self

    def save(self, folder: Path, number: int) -> bool:
        """Do nothing: Milvus persists automatically."""
        return False

    def stats(self) -> BackendStats:
        """See `Backend`."""
        index, _ = _INDEXES[self._options.structure]
        return BackendStats(name="milvus", parameters={"index": index, "collection": self._collection})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _make_ready(self, manifest: IndexManifest, writable: bool) -> None:
        """Create the collection if needed, and load it for searches."""
        if not self._client.has_collection(self._collection):
            if not writable:
                raise BackendError(
                    f"{self._uri} has no collection {self._collection}; open the index for writing once to create it"
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
        """Return rows (Q,count), −1 where there are fewer."""
        among = f"row < {snapshot.state.next_row}" + ("" if label is None else f" and label == {_label_code(label)}")
        with self._translated_errors():
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

    def _reconcile(self, snapshot: Snapshot, options: OptimizeOptions) -> None:
        """Remove vectors that belong to no item and add missing ones, for the rows that the snapshot covers."""
        held = np.array(sorted(self.stored_rows(snapshot.state.next_row)), dtype=np.int64)
        slots = snapshot.slots_of(held)
        self._remove(held[(slots < 0) | ~snapshot.alive[slots]])
        live = snapshot.live_slots()
        missing = live[~np.isin(snapshot.rows_of(live), held)]
        names = {code: name for name, code in snapshot.label_codes.items()}
        progress = options.report("sending to Milvus")
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            labels = [names.get(int(code)) for code in snapshot.labels[part]]
            self.on_add(snapshot.rows_of(part), snapshot.vectors[part], labels)
            progress(start + len(part), len(missing))

    def stored_rows(self, until: int) -> Iterator[int]:
        """Yield the rows below `until` in the collection, by ranges: the size of an answer is limited."""
        for start in range(0, until, _RANGE):
            among = f"row >= {start} and row < {min(until, start + _RANGE)}"
            found = self._client.query(self._collection, filter=among, output_fields=["row"])
            yield from (one["row"] for one in found)

    def _remove(self, rows: Slots) -> None:
        with self._translated_errors():
            for start in range(0, len(rows), _BATCH):
                self._client.delete(self._collection, ids=[int(row) for row in rows[start : start + _BATCH]])

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate the errors of Milvus to `BackendError`."""
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise BackendError(f"Milvus at {self._uri} failed or did not answer: {error.message}") from error


def _connect(uri: str, options: BackendOptions) -> Any:
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        raise BackendError("the Milvus backend needs pymilvus: pip install 'hardrank[milvus]'") from error
    token = ""
    if options.token_variable is not None:
        token = os.environ.get(options.token_variable, "")
        if not token:
            raise BackendError(
                f"the environment variable {options.token_variable} is empty; set it to the token for Milvus"
            )
    try:
        return MilvusClient(uri=uri, token=token)
    except (MilvusException, OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"Milvus at {uri} cannot be opened: {error}") from error


def _resolve_uri(folder: Path, uri: str | None) -> str:
    """Return the address; a relative path is in the index's folder."""
    if uri is not None and "://" in uri:
        return uri
    return str(folder.resolve() / (uri or LITE_FILE))


def _collection(manifest: IndexManifest) -> str:
    """Return the name of an index's collection, unique by its model and time of creation."""
    mark = f"{manifest.model_sha256} {manifest.created.isoformat()}"
    return f"{manifest.backend.collection}_{hashlib.sha256(mark.encode()).hexdigest()[:12]}"


def _label_code(label: str | None) -> int:
    """Return a number for a label, so that filters need no quoting; 0: no label."""
    if label is None:
        return 0
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big", signed=True)
