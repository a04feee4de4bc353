"""An index on disk: search, and change while others search.

What is there is decided by commits to the table of items alone; vectors are on the disk before the commit that owns
them, and approximate structures may be missing. So whatever moment a process is killed at, all that was acknowledged
is there when the index is opened again, and nothing else.

Searches work on a snapshot, which never changes; a change makes another one and puts it in its place.
"""

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from models.files import atomic_folder
from models.preprocessing import UndecodableImageError, read_bytes
from serving.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexExistsError,
    InvalidSearchError,
    ReadOnlyIndexError,
)
from serving.gallery import (
    DuplicateItemError,
    InvalidItemError,
    Item,
    Match,
    NewItem,
    UnknownItemError,
    UnknownLabelError,
    check_vectors,
)
from serving.identity import IndexIdentity, read_identity
from serving.index.backend import Backend, ShowStage, Slots, Task
from serving.index.opening import open_backend
from serving.index.record import remove_other_structures
from serving.item_table import ItemTable, Known, State, is_read_only
from serving.snapshot import Snapshot
from serving.vector_file import VectorFile, create_volume, remove_other_volumes, write_volume

_LOG: Final = logging.getLogger(__name__)
_TABLE: Final = "items.sqlite"
_LOCK: Final = ".writing.lock"
_UPKEEP_LOCK: Final = ".upkeep.lock"
_WAIT_S: Final = 60.0
_TRIES: Final = 5
_ROUGH: Final = 1e-5
"""Sums of float32 in another order differ by less, for vectors of norm 1."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Current:
    """What a search works with; replaced as a whole."""

    snapshot: Snapshot
    file: VectorFile
    backend: Backend
    structure: int
    """The saved structure that the backend is, or comes from; 0: none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """The best of a query's candidates."""

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    tied: bool
    """Whether all candidates beyond are as good as the last, so that there may be others with a better claim."""


class SearchIndex:
    """An open index; use `create` or `open`. All methods may be called from several threads at once."""

    def __init__(self, folder: Path, identity: IndexIdentity, *, writable: bool, upkeep: bool) -> None:
        if writable and is_read_only(folder):
            raise ReadOnlyIndexError(f"nothing can be written in {folder}; open the index for reading, or give rights")
        self.folder = folder
        self.identity = identity
        """What the index is: model, dimension, preprocessing, backend."""
        self.writable = writable
        self._table = ItemTable(folder / _TABLE)
        self._changing = threading.RLock()
        self._upkeep = threading.Lock()
        self._lock = FileLock(folder / _LOCK)
        self._current = self._load()
        self._tending = upkeep
        self._closed = False
        self._tend()

    @classmethod
    def create(cls, folder: Path, *, identity: IndexIdentity, upkeep: bool = True) -> Self:
        """Make an empty index in a new folder and open it for writing (see `open`); raises `IndexExistsError`."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise IndexExistsError(f"{folder} is there already; open it, or choose another folder for a new index")
        with atomic_folder(folder) as unfinished:
            ItemTable.create(unfinished / _TABLE)
            create_volume(unfinished, 1)
            identity.write(unfinished)
        return cls(folder, identity, writable=True, upkeep=upkeep)

    @classmethod
    def open(
        cls, folder: Path, *, model_sha256: str | None = None, writable: bool = False, upkeep: bool = True
    ) -> Self:
        """Open an index. With `upkeep`, a thread settles whenever that is due (see `settle`); else nobody does unasked.

        Raises `IndexNotFoundError`, `IndexDamagedError`, and `WrongModelError` for another model than `model_sha256`.
        """
        identity = read_identity(folder)
        if model_sha256 is not None:
            identity.check_model(folder, model_sha256)
        return cls(folder, identity, writable=writable, upkeep=upkeep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and memory; searches in flight finish, and upkeep that is under way saves nothing."""
        self._closed = True
        self._current.backend.close()
        self._table.close()

    # ------------------------------------------------------------------ reading

    @property
    def size(self) -> int:
        """Items."""
        return self._current.snapshot.size

    @property
    def generation(self) -> int:
        """Commits so far, as far as this object has seen them."""
        return self._current.snapshot.state.generation

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        label: str | None = None,
        exclude: Sequence[str | None] = (),
    ) -> list[list[Match]]:
        """Find the k items most similar to each query (Q,D), best first; ties in the order of addition.

        `exclude` names, for each query, an item to leave out (itself, say). Fewer than k are found where the label has
        fewer items, or one is left out of k. Raises `InvalidSearchError` unless 1 ≤ k ≤ size and queries are of norm 1,
        `UnknownLabelError` for a label that no item has.
        """
        queries = np.asarray(queries, dtype=np.float32)
        self._check_search(queries, k, label, exclude)
        for _ in range(_TRIES):
            current = self._current
            found = self._found(current, queries, k, label, exclude)
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
        """Give an item's vector (D,); raises `UnknownItemError`."""
        row = np.array([self._table.item(id).row])
        for _ in range(_TRIES):
            snapshot = self._current.snapshot
            slot = int(snapshot.slots_of(row)[0])
            if slot >= 0:
                return np.array(snapshot.vectors[slot], dtype=np.float32)
            self.refresh()
        raise UnknownItemError(f"no item has the id {id!r}")

    def thumbnail(self, id: str) -> bytes:
        """Give an item's thumbnail, a PNG, empty where it has none; raises `UnknownItemError`."""
        return self._table.thumbnail(id)

    def original(self, id: str) -> bytes | None:
        """Give the bytes of the file that an item was made of; None where it is gone, has changed, or is too large."""
        source = self._table.source(id)
        if source is None:
            return None
        try:
            data = read_bytes(source.path)
        except UndecodableImageError:
            return None
        return data if hashlib.sha256(data).hexdigest() == source.sha256 else None

    def ids(self, *, start: int = 0, count: int = 100, label: str | None = None) -> list[str]:
        """Give ids in the order of addition: at most `count` after the first `start`, of a label where one is given."""
        if start < 0 or count < 0:
            raise InvalidSearchError(f"start is {start} and count {count}; neither can be negative")
        return self._table.ids(start=start, count=count, label=label)

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """Give id → row of those ids that are indexed."""
        return self._table.rows(ids)

    def sources(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Give id → SHA-256 of the file it was made of, of those ids that are indexed."""
        return self._table.sources(ids)

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Give what tells whether an image is indexed as it is now, of those ids that are indexed."""
        return self._table.known(ids)

    def labels(self) -> dict[str, int]:
        """Count the items of each label."""
        return self._table.labels()

    def stats(self) -> IndexStats:
        """Say what the index holds and takes."""
        current = self._current
        snapshot, backend = current.snapshot, current.backend.stats()
        return IndexStats(
            size=snapshot.size,
            dimension=self.identity.dimension,
            backend=backend.name,
            parameters=backend.parameters,
            disk_bytes=_allocated(self.folder),
            vector_bytes=snapshot.vectors.nbytes,
            memory_bytes=backend.memory_bytes + snapshot.memory_bytes,
            deleted=snapshot.dead,
            generation=snapshot.state.generation,
        )

    # ------------------------------------------------------------------ changing

    def refresh(self) -> bool:
        """Take over what other processes committed; says whether there was anything."""
        with self._changing:
            before = self._current
            if self._table.state() == before.snapshot.state:
                return False
            changes = self._table.changes(before.snapshot.state)
            if changes.whole or changes.state.structure != before.structure:
                self._current = self._load()
            else:
                self._current = replace(before, snapshot=before.snapshot.advanced(before.file, changes))
        self._tend()
        return True

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
            current.backend.adding(rows, vectors, [item.label for item in items])
            self._table.add(items, replaced=replaced)
            self.refresh()
            if replaced:
                current.backend.deleted(np.array(replaced, dtype=np.int64))

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
            self.refresh()
            current.backend.deleted(np.array(numbers, dtype=np.int64))

    def settle(self, *, threads: int = 0, progress: ShowStage | None = None) -> None:
        """Make the structure that searches use fit what the index holds; returns at once where nothing is due.

        Building one may take minutes; searches, additions and deletions go on meanwhile. `threads`: 0 for one a core.
        """
        with self._upkeep:
            current = self._current
            if current.backend.is_due(current.snapshot):
                backend = current.backend.settled(current.snapshot, Task(threads=threads, progress=progress))
                self._put(current.file, backend)
            if self.writable and not self._closed:
                with self._alone(wait=False) as alone:
                    if alone:
                        self._save()

    def compact(self, *, threads: int = 0, progress: ShowStage | None = None) -> None:
        """Free the space of deleted items and build anew what searches use; the rest goes on meanwhile."""
        self._check_writable()
        task = Task(anew=True, threads=threads, progress=progress)
        with self._upkeep, self._alone(wait=True):
            self.refresh()
            current = self._current
            if current.snapshot.dead:
                self._move(current, task)
            else:
                self._put(current.file, current.backend.settled(current.snapshot, task))
                self._save()
            remove_other_volumes(self.folder, self._current.file.volume)
            self._table.free_space()

    # ------------------------------------------------------------------ upkeep

    def _put(self, file: VectorFile, backend: Backend) -> None:
        """Let searches use another backend, unless the vectors have moved meanwhile."""
        with self._changing:
            if self._current.file is file:
                self._current = replace(self._current, backend=backend)

    def _save(self) -> None:
        """Write the structure, where it has changed enough, and put it in force."""
        current = self._current
        number = self._table.state().structure + 1
        if not current.backend.save(self.folder, number):
            return
        with self._writing() as latest:
            if latest.file is current.file:
                self._current = replace(latest, structure=number)
                self._table.adopt(structure=number)
                self.refresh()
        remove_other_structures(self.folder, number)

    def _move(self, current: _Current, task: Task) -> None:
        """Write a volume without the vectors of deleted items, and what searches it, and put both in force."""
        former, state = current.snapshot, current.snapshot.state
        volume, live = state.volume + 1, former.live_slots()
        write_volume(self.folder, volume, former.vectors, live, former.rows_of(live), task.at("moving vectors"))
        file = VectorFile(self.folder, volume, self.identity.dimension)
        moved = replace(state, volume=volume, base_slots=len(live), base_row=state.next_row)
        backend = current.backend.settled(former.compacted(file, moved), task)
        number = state.structure + 1
        structure = number if backend.save(self.folder, number) else 0
        with self._writing() as latest:
            # What was added meanwhile follows, dead or alive; what was deleted meanwhile is dead in the new volume too.
            file.write(len(live), latest.snapshot.vectors[former.slots :])
            self._table.adopt(volume=volume, base_slots=len(live), base_row=state.next_row, structure=structure)
            snapshot = Snapshot.load(file, self._table.changes())
            self._current = _Current(snapshot=snapshot, file=file, backend=backend, structure=structure)
        remove_other_structures(self.folder, structure)

    def _tend(self) -> None:
        """Settle in a thread of its own, where that is due and nobody does it already."""
        current = self._current
        if not self._tending or self._closed or self._upkeep.locked() or not current.backend.is_due(current.snapshot):
            return
        threading.Thread(target=self._tended, name="index upkeep", daemon=True).start()

    def _tended(self) -> None:
        try:
            self.settle(threads=1)
        except Exception:
            if self._closed:
                return
            # Searches still work, exactly or with the former structure; whoever runs the server must know why.
            _LOG.exception("the upkeep of %s failed", self.folder)

    @contextmanager
    def _alone(self, *, wait: bool) -> Iterator[bool]:
        """Keep other processes from saving structures and volumes; gives whether that could be had."""
        lock = FileLock(self.folder / _UPKEEP_LOCK)
        try:
            lock.acquire(timeout=_WAIT_S if wait else 0)
        except Timeout:
            if wait:
                raise IndexBusyError(f"another process is compacting {self.folder}; wait for it") from None
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    # ------------------------------------------------------------------ parts

    def _load(self) -> _Current:
        """Read everything. A compaction may remove what was just looked up: then look again."""
        while True:
            changes = self._table.changes()
            state = changes.state
            file = VectorFile(self.folder, state.volume, self.identity.dimension)
            try:
                snapshot = Snapshot.load(file, changes)
                backend = open_backend(self.folder, self.identity, state, writable=self.writable)
            except IndexDamagedError:
                if self._is_in_force(state):
                    raise
                continue
            if self._is_in_force(state):
                return _Current(snapshot=snapshot, file=file, backend=backend, structure=state.structure)

    def _is_in_force(self, state: State) -> bool:
        """Whether the volume and structure of a state are still those that count."""
        now = self._table.state()
        return (now.volume, now.structure) == (state.volume, state.structure)

    def _check_search(
        self, queries: npt.NDArray[np.float32], k: int, label: str | None, exclude: Sequence[str | None]
    ) -> None:
        snapshot = self._current.snapshot
        if not snapshot.size:
            raise InvalidSearchError(f"the index {self.folder.name} is empty: add items before searching")
        if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= snapshot.size:
            raise InvalidSearchError(f"k is {k}; give a whole number from 1 to {snapshot.size}, the items of the index")
        if wrong := check_vectors(queries, self.identity.dimension):
            raise InvalidSearchError(f"queries: {wrong}")
        if exclude and len(exclude) != len(queries):
            raise InvalidSearchError(f"{len(exclude)} items to exclude for {len(queries)} queries; give one each")
        if label is not None and not len(snapshot.slots_labelled(label)):
            raise UnknownLabelError(f"no item has the label {label!r}")

    def _found(
        self,
        current: _Current,
        queries: npt.NDArray[np.float32],
        k: int,
        label: str | None,
        exclude: Sequence[str | None],
    ) -> list[_Found]:
        """Find the best for each query."""
        snapshot = current.snapshot
        left_out = self._excluded(snapshot, len(queries), exclude)
        wanted = min(k + bool(exclude), snapshot.size)
        while True:
            slots = current.backend.candidates(snapshot, queries, wanted, label=label)
            found = [
                _best(snapshot, query, own[(own >= 0) & (own != out)], k)
                for query, own, out in zip(queries, slots, left_out, strict=True)
            ]
            full = (slots >= 0).sum(axis=1) >= wanted
            if wanted == snapshot.size or not any(one.tied and more for one, more in zip(found, full, strict=True)):
                return found
            wanted = min(4 * wanted, snapshot.size)  # which of many equal items come first is only known from all

    def _excluded(self, snapshot: Snapshot, queries: int, exclude: Sequence[str | None]) -> Slots:
        """Give the slot to leave out for each query; −1: none."""
        if not exclude:
            return np.full(queries, -1, dtype=np.int64)
        rows = self._table.rows([id for id in exclude if id is not None])
        return snapshot.slots_of(np.array([-1 if id is None else rows.get(id, -1) for id in exclude], dtype=np.int64))

    @contextmanager
    def _writing(self) -> Iterator[_Current]:
        """Keep other writers out, of all processes, and begin from the latest state."""
        self._check_writable()
        with self._changing:
            try:
                self._lock.acquire(timeout=_WAIT_S)
            except Timeout:
                raise IndexBusyError(
                    f"another process has been writing to {self.folder} for {_WAIT_S:.0f} s; wait for it and try again"
                ) from None
            try:
                self.refresh()
                yield self._current
            finally:
                self._lock.release()

    def _check_writable(self) -> None:
        if not self.writable:
            raise ReadOnlyIndexError(f"the index {self.folder} was opened for reading; open it with writable=True")

    def _vectors(self, items: Sequence[NewItem]) -> npt.NDArray[np.float32]:
        for item in items:
            if wrong := check_vectors(np.asarray(item.vector)[None], self.identity.dimension):
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


def _best(snapshot: Snapshot, query: npt.NDArray[np.float32], slots: Slots, k: int) -> _Found:
    """Score candidates exactly and keep the best k; the lower row where scores are equal."""
    slots = np.sort(slots)  # rows rise with slots, and the file is read forwards
    vectors = snapshot.vectors[slots]
    rough = vectors @ query
    lowest = rough.min(initial=np.inf)
    if len(slots) > k:
        near = rough >= np.partition(rough, -k)[-k] - _ROUGH
        slots, vectors = slots[near], vectors[near]
    # Row by row, so that an item's score does not depend on which other candidates there are, as in a matrix product.
    scores = (vectors.astype(np.float64) * query).sum(axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    tied = len(order) == k and bool(lowest >= scores[order[-1]] - _ROUGH)
    return _Found(rows=snapshot.rows_of(slots[order]), scores=scores[order].clip(-1, 1), tied=tied)


def _matches(found: _Found, items: dict[int, Item]) -> list[Match]:
    there = [
        (items[int(row)], float(score))
        for row, score in zip(found.rows, found.scores, strict=True)
        if int(row) in items
    ]
    return [Match(item=item, score=score, rank=rank) for rank, (item, score) in enumerate(there, start=1)]


def _allocated(folder: Path) -> int:
    """Bytes of the disk that the files below a folder take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # a file of a write in progress
    return total
