"""An index on disk: search it, and change it while others search.

Commits to the table of items alone decide what is indexed. Vectors are on disk before the commit that refers to them,
and an ANN index may be missing. So when a process is killed, at whatever moment, the index holds exactly what was
acknowledged when it is opened again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from hardrank.models.files import atomic_folder
from hardrank.serving.ann.backend import ShowProgress
from hardrank.serving.ann.registry import OpenBackend, open_backend
from hardrank.serving.index.maintenance import Maintenance
from hardrank.serving.index.reader import IndexReader
from hardrank.serving.index.state import IndexState, IndexView, OpenOptions
from hardrank.serving.store.database import LOCK_TIMEOUT_S
from hardrank.serving.store.errors import IndexExistsError
from hardrank.serving.store.items import (
    DuplicateItemError,
    InvalidItemError,
    ListedItem,
    NewItem,
    UnknownItemError,
    check_vectors,
)
from hardrank.serving.store.manifest import IndexManifest, read_manifest


class SearchIndex(IndexReader):
    """An open index; use `create` or `open`. Any method may be called from several threads at once."""

    def __init__(self, folder: Path, manifest: IndexManifest, options: OpenOptions) -> None:
        super().__init__(IndexState(folder, manifest, options))
        self._maintenance = Maintenance(self._state)
        self._maintenance.start_if_stale()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        manifest: IndexManifest,
        maintenance: bool = True,
        open_backend: OpenBackend = open_backend,
    ) -> Self:
        """Create an empty index in a new folder and open it for writing.

        Args:
            folder: A folder that does not exist or is empty.
            manifest: The model and options of the index; `IndexManifest.of(engine)` makes one.
            maintenance: See `open`.
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
        options = OpenOptions(writable=True, maintenance=maintenance, open_backend=open_backend)
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

    @property
    def writable(self) -> bool:
        """Whether the index was opened for writing."""
        return self._state.options.writable

    def refresh(self) -> bool:
        """Load what other processes have committed; return whether there was anything."""
        changed = super().refresh()
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
            self._delete_rows(current, rows.values())

    def delete_listed(self, items: Sequence[ListedItem]) -> int:
        """Delete items that `list_items` returned, all or none, and return their number; raises as `add`.

        Those that were deleted or replaced since are left alone.
        """
        if not items:
            return 0
        with self._writing() as current:
            latest = self._table.rows([item.id for item in items])
            rows = [item.row for item in items if latest.get(item.id) == item.row]
            self._delete_rows(current, rows)
            return len(rows)

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

    def _delete_rows(self, current: IndexView, rows: Collection[int]) -> None:
        if rows:
            ordered = sorted(rows)
            self._table.delete(ordered)
            self._state.refresh()
            current.backend.on_delete(np.array(ordered, dtype=np.int64))

    @contextmanager
    def _writing(self) -> Iterator[IndexView]:
        """Change the latest state while no other writer can; start maintenance afterwards."""
        with self._state.writing() as current:
            try:
                yield current
            finally:
                self._maintenance.start_if_stale()

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
