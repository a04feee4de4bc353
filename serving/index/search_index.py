"""An index on disk: search it, and change it while others search.

Commits to the table of items alone decide what is indexed. Vectors are on disk before the commit that refers to them,
and an ANN index may be missing. So when a process is killed, at whatever moment, the index holds exactly what was
acknowledged when it is opened again.

Searches use a snapshot, which never changes; a change creates a new one and replaces the old.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hardrank.models.files import atomic_folder
from hardrank.serving.ann.backend import ShowProgress
from hardrank.serving.ann.registry import OpenBackend, open_backend
from hardrank.serving.index.maintenance import Maintenance
from hardrank.serving.index.rescoring import ScoredRows, nearest_items
from hardrank.serving.index.state import IndexState, IndexView, OpenOptions
from hardrank.serving.index.stats import IndexStats, index_stats
from hardrank.serving.store.database import LOCK_TIMEOUT_S
from hardrank.serving.store.errors import IndexBusyError, IndexExistsError, InvalidSearchError
from hardrank.serving.store.item_table import Fingerprint
from hardrank.serving.store.items import (
    DuplicateItemError,
    InvalidItemError,
    Item,
    ListedItem,
    Match,
    NewItem,
    UnknownItemError,
    UnknownLabelError,
    check_vectors,
)
from hardrank.serving.store.manifest import IndexManifest, read_manifest
from hardrank.serving.store.snapshot import Snapshot

_TRIES: Final = 5


class SearchIndex:
    """An open index; use `create` or `open`. Any method may be called from several threads at once."""

    def __init__(self, folder: Path, manifest: IndexManifest, options: OpenOptions) -> None:
        self.folder = folder
        self.manifest = manifest
        """The model and options of the index."""
        self._state = IndexState(folder, manifest, options)
        self._table = self._state.table
        self._maintenance = Maintenance(self._state)
        self._maintenance.start_if_stale()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        manifest: IndexManifest,
        maintenance: bool = True,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        open_backend: OpenBackend = open_backend,
    ) -> Self:
        """Create an empty index in a new folder and open it for writing.

        Args:
            folder: A folder that does not exist or is empty.
            manifest: The model and options of the index; `IndexManifest.of(engine)` makes one.
            maintenance: See `open`.
            lock_timeout_s: See `open`.
            open_backend: See `open`.

        Raises:
            IndexExistsError: The folder is not empty.
            BackendError: The backend is not available.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise IndexExistsError(f"{folder} already exists; open it, or choose another folder for a new index")
        with atomic_folder(folder) as unfinished:
            IndexState.create(unfinished)
            manifest.write(unfinished)
        options = OpenOptions(
            writable=True, maintenance=maintenance, lock_timeout_s=lock_timeout_s, open_backend=open_backend
        )
        return cls(folder, manifest, options)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        model_sha256: str | None = None,
        writable: bool = False,
        maintenance: bool = True,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        immutable: bool | None = None,
        open_backend: OpenBackend = open_backend,
    ) -> Self:
        """Open an index; use it as a context manager, or call `close`.

        Args:
            folder: Folder of the index.
            model_sha256: SHA-256 of the `model.onnx` that the index must belong to; None for any.
            writable: Whether `add`, `delete` and `compact` are allowed.
            maintenance: Whether a background thread builds what searches need whenever that is due (see `optimize`).
                Pass False to read an index without starting anything.
            lock_timeout_s: Seconds to wait for another process that writes before raising `IndexBusyError`.
            immutable: Whether nobody changes the files, so that nothing is written beside them; None for True if the
                folder is read-only.
            open_backend: What opens the backend, for one that is not in the registry.

        Raises:
            IndexNotFoundError: The folder is not an index.
            IndexDamagedError: A file is missing, damaged, or of another version.
            WrongModelError: The index belongs to another model.
            ReadOnlyIndexError: `writable`, but the folder is read-only.
            BackendError: The backend is not available.
        """
        manifest = read_manifest(folder)
        if model_sha256 is not None:
            manifest.check_model(folder, model_sha256)
        options = OpenOptions(
            writable=writable,
            maintenance=maintenance,
            lock_timeout_s=lock_timeout_s,
            immutable=immutable,
            open_backend=open_backend,
        )
        return cls(folder, manifest, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release files and memory; searches in progress finish, and maintenance in progress saves nothing."""
        self._maintenance.stop()
        self._state.close()

    # ------------------------------------------------------------------ reading

    @property
    def size(self) -> int:
        """Number of items."""
        return self._state.current.snapshot.size

    @property
    def generation(self) -> int:
        """Number of commits that this object has loaded."""
        return self._state.current.snapshot.state.generation

    @property
    def writable(self) -> bool:
        """Whether the index was opened for writing."""
        return self._state.options.writable

    @property
    def snapshot(self) -> Snapshot:
        """What searches use now: vectors by slot, labels, and which slots are alive. It never changes."""
        return self._state.current.snapshot

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        label: str | None = None,
        exclude: Sequence[str | None] = (),
        fewer: bool = False,
    ) -> list[list[Match]]:
        """Find the items most similar to each query.

        Args:
            queries: (Q,D), of norm 1.
            k: Number of items to find for each query, from 1 to `size`. Fewer are found if the label has fewer items,
                or if one of k items is excluded.
            label: Search only the items with this label.
            exclude: For each query the id of an item to leave out (such as the query itself), or None.
            fewer: Allow a k above `size`, and find all items then: for a k that was valid when it was chosen, while
                others delete items.

        Returns:
            For each query its matches, best first; equal scores in the order of addition. A score is the cosine
            similarity, computed from the vectors themselves whatever the backend.

        Raises:
            InvalidSearchError: k is out of range, a query is not of norm 1, or the index is empty.
            UnknownLabelError: No item has the label.
        """
        queries = np.asarray(queries, dtype=np.float32)
        self._check_search(queries, k, label, exclude, fewer=fewer)
        for _ in range(_TRIES):
            found = self._nearest(queries, k, label, exclude)
            rows = {int(row) for one in found for row in one.rows}
            items = self._table.items(sorted(rows))
            if len(items) == len(rows):
                break
            self.refresh()  # an item was deleted since the snapshot: search again without it
        return [_matches(one, items) for one in found]

    def item(self, id: str) -> Item:
        """Return an item; raises `UnknownItemError`."""
        return self._table.item(id)

    def vector(self, id: str) -> npt.NDArray[np.float32]:
        """Return an item's vector (D,); raises `UnknownItemError`."""
        vector: npt.NDArray[np.float32] = self.vectors([id])[0]
        return vector

    def vectors(self, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors (n,D) of items, in the order of `ids`; raises `UnknownItemError`."""
        snapshot, slots = self._slots(ids)
        return np.array(snapshot.vectors[slots], dtype=np.float32)

    def iter_vectors(self, ids: Sequence[str], *, block: int = 4096) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the vectors of items in blocks (≤ block,D), in the order of `ids`, without holding them all.

        All blocks come from the state of the index at the call, whatever changes meanwhile. Raises `UnknownItemError`
        at the call, not in the middle.
        """
        if block < 1:
            raise InvalidSearchError(f"block is {block}; give at least 1 vector")
        snapshot, slots = self._slots(ids)
        return (
            np.array(snapshot.vectors[slots[start : start + block]], dtype=np.float32)
            for start in range(0, len(slots), block)
        )

    def thumbnail(self, id: str) -> bytes:
        """Return an item's thumbnail, a PNG, empty if it has none; raises `UnknownItemError`."""
        return self._table.thumbnail(id)

    def original(self, id: str) -> bytes | None:
        """Return the file an item was indexed from; None if it is unknown, gone, changed, or too large."""
        source = self._table.source(id)
        return None if source is None else source.read()

    def ids(self, *, start: int = 0, count: int = 100, label: str | None = None) -> list[str]:
        """Return at most `count` ids in the order of addition, after skipping `start` of them.

        A deletion between two calls shifts what follows: to read page after page use `list_items`.
        """
        if start < 0 or count < 0:
            raise InvalidSearchError(f"start is {start} and count {count}; neither can be negative")
        return self._table.ids(start=start, count=count, label=label)

    def list_items(self, *, after: int = -1, count: int | None = None, label: str | None = None) -> list[ListedItem]:
        """Return items in the order of addition, with one query: ids, labels and files.

        Args:
            after: Row of the last item of the page before; −1 to start. Pages neither skip nor repeat an item, whatever
                is added or deleted between them, even that last item itself.
            count: Items to return at most; None for all.
            label: Return only the items with this label.

        Raises:
            InvalidSearchError: `count` is negative.
        """
        if count is not None and count < 0:
            raise InvalidSearchError(f"count is {count}; it cannot be negative")
        return self._table.list_items(after=after, count=count, label=label)

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """Return id → row of the ids that are indexed."""
        return self._table.rows(ids)

    def source_hashes(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Return id → SHA-256 of the file it was indexed from, of the ids that are indexed."""
        return self._table.source_hashes(ids)

    def fingerprints(self, ids: Sequence[str]) -> dict[str, Fingerprint]:
        """Return id → fingerprint of the ids that are indexed, to find out which images have changed."""
        return self._table.fingerprints(ids)

    def labels(self) -> dict[str, int]:
        """Return label → number of items, in alphabetical order."""
        return self._table.labels()

    def stats(self) -> IndexStats:
        """Return the size and resource use of the index."""
        return index_stats(self._state)

    # ------------------------------------------------------------------ changing

    def refresh(self) -> bool:
        """Load what other processes have committed; return whether there was anything."""
        changed = self._state.refresh()
        if changed:
            self._maintenance.start_if_stale()
        return changed

    def add(self, items: Sequence[NewItem], *, replace: bool = False) -> None:
        """Add items, all or none; when this returns they are on disk and searches find them.

        Args:
            items: The items; their vectors are (D,) of norm 1.
            replace: Whether to replace items with the same ids.

        Raises:
            DuplicateItemError: An id is already indexed (unless `replace`), or occurs twice in the call.
            InvalidItemError: A vector has another length or norm.
            ReadOnlyIndexError: The index was opened for reading.
            IndexBusyError: Another process is writing.
            IndexWriteError: The disk is full; nothing was added.
        """
        if not items:
            return
        vectors = self._vectors(items)
        with self._writing() as current:
            replaced = sorted(self._check_new([item.id for item in items], replace=replace))
            state = current.snapshot.state
            rows = np.arange(state.next_row, state.next_row + len(items))
            current.file.write(state.slots, vectors)
            current.backend.on_add(rows, vectors, [item.label for item in items])
            self._table.add(items, replaced=replaced)
            self._state.refresh()
            if replaced:
                current.backend.on_delete(np.array(replaced, dtype=np.int64))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items, all or none; raises `UnknownItemError` for the first id that is not indexed, and as `add`."""
        if not ids:
            return
        with self._writing() as current:
            rows = self._table.rows(ids)
            if missing := [id for id in ids if id not in rows]:
                raise UnknownItemError(f"no item has the id {missing[0]!r}; nothing was deleted")
            numbers = sorted(rows.values())
            self._table.delete(numbers)
            self._state.refresh()
            current.backend.on_delete(np.array(numbers, dtype=np.int64))

    def update_sources(self, sources: Mapping[str, Path]) -> None:
        """Set where the image files of items are now, given id → path; ids that are not indexed are ignored.

        Raises `ReadOnlyIndexError`, `IndexBusyError`, `IndexWriteError`.
        """
        if sources:
            with self._writing():
                self._table.update_sources({id: str(path) for id, path in sources.items()})

    def optimize(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """Build or update the ANN index that searches use; return at once if nothing is due.

        This may take minutes, during which searches, additions and deletions go on.

        Args:
            threads: Number of threads; 0 for one per usable core.
            progress: Called with (step, done, total).
        """
        self._maintenance.optimize(threads=threads, progress=progress)

    def compact(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """Free the space of deleted items and rebuild the ANN index; see `optimize`. Raises as `add`."""
        self._maintenance.compact(threads=threads, progress=progress)

    # ------------------------------------------------------------------ parts

    def _check_search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        label: str | None,
        exclude: Sequence[str | None],
        *,
        fewer: bool,
    ) -> None:
        snapshot = self._state.current.snapshot
        if not snapshot.size:
            raise InvalidSearchError(f"the index {self.folder.name} is empty; add items before searching")
        whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
        if not whole or k < 1 or (k > snapshot.size and not fewer):
            raise InvalidSearchError(f"k is {k}; give a whole number from 1 to {snapshot.size}, the size of the index")
        if wrong := check_vectors(queries, self.manifest.dimension):
            raise InvalidSearchError(f"queries: {wrong}")
        if exclude and len(exclude) != len(queries):
            raise InvalidSearchError(f"{len(exclude)} items to exclude for {len(queries)} queries; give one each")
        if label is not None and not len(snapshot.slots_with_label(label)):
            raise UnknownLabelError(f"no item has the label {label!r}")

    def _nearest(
        self, queries: npt.NDArray[np.float32], k: int, label: str | None, exclude: Sequence[str | None]
    ) -> list[ScoredRows]:
        current = self._state.current
        excluded = None
        if exclude:
            rows = self._table.rows([id for id in exclude if id is not None])
            own = [-1 if id is None else rows.get(id, -1) for id in exclude]
            excluded = current.snapshot.slots_of(np.array(own, dtype=np.int64))
        return nearest_items(current.snapshot, current.backend, queries, k, label=label, excluded=excluded)

    @contextmanager
    def _writing(self) -> Iterator[IndexView]:
        """Change the latest state while no other writer can; start maintenance afterwards."""
        with self._state.writing() as current:
            try:
                yield current
            finally:
                self._maintenance.start_if_stale()

    def _slots(self, ids: Sequence[str]) -> tuple[Snapshot, npt.NDArray[np.int64]]:
        """Return a snapshot that holds the vectors of all these items, and their slots (n,) in it."""
        for _ in range(_TRIES):
            rows = self._table.rows(ids)
            if missing := [id for id in ids if id not in rows]:
                raise UnknownItemError(f"no item has the id {missing[0]!r}")
            snapshot = self._state.current.snapshot
            slots = snapshot.slots_of(np.array([rows[id] for id in ids], dtype=np.int64))
            if (slots >= 0).all():
                return snapshot, slots
            self.refresh()  # an item was added since the snapshot, or its vector has moved
        raise IndexBusyError(f"{self.folder} changes faster than it can be read; try again")

    def _vectors(self, items: Sequence[NewItem]) -> npt.NDArray[np.float32]:
        for item in items:
            if wrong := check_vectors(np.asarray(item.vector)[None], self.manifest.dimension):
                raise InvalidItemError(f"the item {item.id!r}: {wrong}")
        return np.stack([np.asarray(item.vector, dtype=np.float32) for item in items])

    def _check_new(self, ids: Sequence[str], *, replace: bool) -> list[int]:
        """Return the rows of the items that new ones replace."""
        seen: set[str] = set()
        for id in ids:
            if id in seen:
                raise DuplicateItemError(f"duplicate id {id!r}; nothing was added")
            seen.add(id)
        existing = self._table.rows(ids)
        if existing and not replace:
            raise DuplicateItemError(f"an item with the id {min(existing)!r} already exists; nothing was added")
        return list(existing.values())


def _matches(found: ScoredRows, items: dict[int, Item]) -> list[Match]:
    existing = [
        (items[int(row)], float(score))
        for row, score in zip(found.rows, found.scores, strict=True)
        if int(row) in items
    ]
    return [Match(item=item, score=score, rank=rank) for rank, (item, score) in enumerate(existing, start=1)]
