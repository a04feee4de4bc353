"""An index on disk: search, and change while others search.

What is there is decided by commits to the table of items alone; vectors are on the disk before the commit that owns
them, and approximate structures may be missing. So whatever moment a process is killed at, all that was acknowledged
is there when the index is opened again, and nothing else.

Searches work on a snapshot, which never changes; a change makes another one and puts it in its place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from hardrank.models.files import atomic_folder
from hardrank.serving.ann.backend import ShowProgress
from hardrank.serving.index.maintenance import Maintenance
from hardrank.serving.index.rescoring import Best, rank
from hardrank.serving.index.state import IndexState, SearchState
from hardrank.serving.index.stats import IndexStats, index_stats
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
    """An open index; use `create` or `open`. All methods may be called from several threads at once."""

    def __init__(self, folder: Path, manifest: IndexManifest, *, writable: bool, maintenance: bool) -> None:
        self.folder = folder
        self.manifest = manifest
        """What the index is: model, dimension, preprocessing, backend."""
        self.writable = writable
        self._holdings = IndexState(folder, manifest, writable=writable)
        self._table = self._holdings.table
        self._upkeep = Maintenance(self._holdings, unasked=maintenance)
        self._upkeep.tend()

    @classmethod
    def create(cls, folder: Path, *, manifest: IndexManifest, maintenance: bool = True) -> Self:
        """Make an empty index in a new folder and open it for writing (see `open`); raises `IndexExistsError`."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise IndexExistsError(f"{folder} is there already; open it, or choose another folder for a new index")
        with atomic_folder(folder) as unfinished:
            IndexState.create(unfinished)
            manifest.write(unfinished)
        return cls(folder, manifest, writable=True, maintenance=maintenance)

    @classmethod
    def open(
        cls, folder: Path, *, model_sha256: str | None = None, writable: bool = False, maintenance: bool = True
    ) -> Self:
        """Open an index; use it as a context manager, or call `close`.

        Args:
            folder: Folder of the index.
            model_sha256: SHA-256 of the `model.onnx` that the index must belong to; None for any.
            writable: Whether `add`, `delete` and `compact` are allowed.
            maintenance: Whether a background thread builds what searches need whenever that is due (see `optimize`).
                Pass False to read an index without starting anything.

        Raises:
            IndexNotFoundError: `folder` is not an index.
            IndexDamagedError: A file is missing, damaged, or of another version.
            WrongModelError: The index belongs to another model.
        """
        manifest = read_manifest(folder)
        if model_sha256 is not None:
            manifest.check_model(folder, model_sha256)
        return cls(folder, manifest, writable=writable, maintenance=maintenance)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and memory; searches in flight finish, and maintenance in progress saves nothing."""
        self._upkeep.end()
        self._holdings.close()

    # ------------------------------------------------------------------ reading

    @property
    def size(self) -> int:
        """Items."""
        return self._holdings.current.snapshot.size

    @property
    def generation(self) -> int:
        """Commits so far, as far as this object has seen them."""
        return self._holdings.current.snapshot.state.generation

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        label: str | None = None,
        exclude: Sequence[str | None] = (),
        fewer: bool = False,
    ) -> list[list[Match]]:
        """Find the k items most similar to each query (Q,D), best first; ties in the order of addition.

        `exclude` names, for each query, an item to leave out (itself, say). Fewer than k are found where the label has
        fewer items, or one is left out of k. Raises `InvalidSearchError` unless 1 ≤ k ≤ size and queries are of norm 1,
        `UnknownLabelError` for a label that no item has. With `fewer`, k may be above the size, and all are found: for
        a k that fitted when it was chosen, and items that others delete meanwhile.
        """
        queries = np.asarray(queries, dtype=np.float32)
        self._check_search(queries, k, label, exclude, fewer=fewer)
        for _ in range(_TRIES):
            found = self._best(queries, k, label, exclude)
            rows = {int(row) for one in found for row in one.rows}
            items = self._table.items(sorted(rows))
            if len(items) == len(rows):
                break
            self.refresh()  # an item was deleted since the snapshot: look again without it
        return [_matches(one, items) for one in found]

    def item(self, id: str) -> Item:
        """Give an item; raises `UnknownItemError`."""
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
        """Give an item's thumbnail, a PNG, empty where it has none; raises `UnknownItemError`."""
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
        """Give id → row of those ids that are indexed."""
        return self._table.rows(ids)

    def source_hashes(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Give id → SHA-256 of the file it was made of, of those ids that are indexed."""
        return self._table.source_hashes(ids)

    def fingerprints(self, ids: Sequence[str]) -> dict[str, Fingerprint]:
        """Give what tells whether an image is indexed as it is now, of those ids that are indexed."""
        return self._table.fingerprints(ids)

    def labels(self) -> dict[str, int]:
        """Count the items of each label."""
        return self._table.labels()

    def stats(self) -> IndexStats:
        """Say what the index holds and takes."""
        return index_stats(self._holdings)

    # ------------------------------------------------------------------ changing

    def refresh(self) -> bool:
        """Take over what other processes committed; says whether there was anything."""
        changed = self._holdings.refresh()
        if changed:
            self._upkeep.tend()
        return changed

    def add(self, items: Sequence[NewItem], *, replace: bool = False) -> None:
        """Add items, all or none; they are on the disk, and found, when this returns.

        With `replace` they take the place of items with the same ids. Raises `DuplicateItemError` for an id that is
        there otherwise, `InvalidItemError` for a vector that does not fit.
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
            self._holdings.refresh()
            if replaced:
                current.backend.on_delete(np.array(replaced, dtype=np.int64))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items, all or none; raises `UnknownItemError` naming the first that is not there."""
        if not ids:
            return
        with self._writing() as current:
            rows = self._table.rows(ids)
            if missing := [id for id in ids if id not in rows]:
                raise UnknownItemError(f"no item has the id {missing[0]!r}; nothing was deleted")
            numbers = sorted(rows.values())
            self._table.delete(numbers)
            self._holdings.refresh()
            current.backend.on_delete(np.array(numbers, dtype=np.int64))

    def optimize(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """Make the structure that searches use fit what the index holds; returns at once where nothing is due.

        Building one may take minutes; searches, additions and deletions go on meanwhile. `threads`: 0 for one a core.
        """
        self._upkeep.optimize(threads=threads, progress=progress)

    def compact(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """Free the space of deleted items and build anew what searches use; the rest goes on meanwhile."""
        self._upkeep.compact(threads=threads, progress=progress)

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
        snapshot = self._holdings.current.snapshot
        if not snapshot.size:
            raise InvalidSearchError(f"the index {self.folder.name} is empty: add items before searching")
        whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
        if not whole or k < 1 or (k > snapshot.size and not fewer):
            raise InvalidSearchError(f"k is {k}; give a whole number from 1 to {snapshot.size}, the items of the index")
        if wrong := check_vectors(queries, self.manifest.dimension):
            raise InvalidSearchError(f"queries: {wrong}")
        if exclude and len(exclude) != len(queries):
            raise InvalidSearchError(f"{len(exclude)} items to exclude for {len(queries)} queries; give one each")
        if label is not None and not len(snapshot.slots_labelled(label)):
            raise UnknownLabelError(f"no item has the label {label!r}")

    def _best(
        self, queries: npt.NDArray[np.float32], k: int, label: str | None, exclude: Sequence[str | None]
    ) -> list[Best]:
        current = self._holdings.current
        left_out = None
        if exclude:
            rows = self._table.rows([id for id in exclude if id is not None])
            wanted = [-1 if id is None else rows.get(id, -1) for id in exclude]
            left_out = current.snapshot.slots_of(np.array(wanted, dtype=np.int64))
        return rank(current.snapshot, current.backend, queries, k, label=label, left_out=left_out)

    @contextmanager
    def _writing(self) -> Iterator[SearchState]:
        """Change the index from its latest state on, alone; then settle, where that is due."""
        with self._holdings.writing() as current:
            try:
                yield current
            finally:
                self._upkeep.tend()

    def _slots(self, ids: Sequence[str]) -> tuple[Snapshot, npt.NDArray[np.int64]]:
        """Return a snapshot that holds the vectors of all these items, and their slots (n,) in it."""
        for _ in range(_TRIES):
            rows = self._table.rows(ids)
            if missing := [id for id in ids if id not in rows]:
                raise UnknownItemError(f"no item has the id {missing[0]!r}")
            snapshot = self._holdings.current.snapshot
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
        """Give the rows of items that new ones replace."""
        seen: set[str] = set()
        for id in ids:
            if id in seen:
                raise DuplicateItemError(f"the id {id!r} is given twice; nothing was added")
            seen.add(id)
        there = self._table.rows(ids)
        if there and not replace:
            raise DuplicateItemError(f"an item has the id {min(there)!r} already; nothing was added")
        return list(there.values())


def _matches(found: Best, items: dict[int, Item]) -> list[Match]:
    there = [
        (items[int(row)], float(score))
        for row, score in zip(found.rows, found.scores, strict=True)
        if int(row) in items
    ]
    return [Match(item=item, score=score, rank=place) for place, (item, score) in enumerate(there, start=1)]
