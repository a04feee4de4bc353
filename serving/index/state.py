"""The state of an open index: a snapshot, its vectors, and the backend. One writer at a time changes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hardrank.serving.ann.backend import Backend
from hardrank.serving.ann.registry import OpenBackend, open_backend
from hardrank.serving.store.database import LOCK_TIMEOUT_S, is_read_only
from hardrank.serving.store.errors import IndexBusyError, IndexDamagedError, ReadOnlyIndexError
from hardrank.serving.store.item_table import ItemTable, TableState
from hardrank.serving.store.manifest import IndexManifest
from hardrank.serving.store.snapshot import Snapshot
from hardrank.serving.store.vector_file import VectorFile, create_volume

TABLE: Final = "items.sqlite"
WRITE_LOCK: Final = ".writing.lock"
"""File in the index's folder that a writer locks."""


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How an index is opened."""

    writable: bool = False
    """Whether changes are allowed."""
    maintenance: bool = True
    """Whether a background thread builds what searches need."""
    lock_timeout_s: float = LOCK_TIMEOUT_S
    """Seconds to wait for another process before raising `IndexBusyError`."""
    immutable: bool | None = None
    """Whether nobody changes the files; None for True if the folder is read-only."""
    open_backend: OpenBackend = open_backend
    """What opens the backend of the manifest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexView:
    """What searches use; replaced as a whole."""

    snapshot: Snapshot
    file: VectorFile
    backend: Backend
    ann_number: int
    """Number of the saved ANN index that the backend is, or was derived from; 0: none."""


class IndexState:
    """The state of one open index. A search reads `current` once and needs no lock."""

    def __init__(self, folder: Path, manifest: IndexManifest, options: OpenOptions) -> None:
        """Load the index; raises `IndexDamagedError`, and `ReadOnlyIndexError` if it cannot be opened for writing."""
        immutable = is_read_only(folder) if options.immutable is None else options.immutable
        if options.writable and immutable:
            raise ReadOnlyIndexError(
                f"{folder} is read-only; open the index for reading, or give this user write permission"
            )
        self.folder = folder
        self.manifest = manifest
        self.options = options
        self.table = ItemTable(folder / TABLE, lock_timeout_s=options.lock_timeout_s, immutable=immutable)
        self._changing = threading.RLock()
        self._lock = FileLock(folder / WRITE_LOCK)
        self.current = self._load()
        """The latest state that was loaded. Replace it only within `writing`."""

    @staticmethod
    def create(folder: Path) -> None:
        """Write the files of an empty index."""
        ItemTable.create(folder / TABLE)
        create_volume(folder, 1)

    def close(self) -> None:
        """Release files and memory; searches in progress finish."""
        self.current.backend.close()
        self.table.close()

    def check_writable(self) -> None:
        """Raise `ReadOnlyIndexError` if the index was opened for reading."""
        if not self.options.writable:
            raise ReadOnlyIndexError(f"the index {self.folder} was opened for reading; open it with writable=True")

    def refresh(self) -> bool:
        """Load what any process has committed since; return whether there was anything."""
        with self._changing:
            before = self.current
            if self.table.state() == before.snapshot.state:
                return False
            changes = self.table.changes(before.snapshot.state)
            if changes.complete or changes.state.ann_number != before.ann_number:
                self.current = self._load()
            else:
                self.current = replace(before, snapshot=before.snapshot.advanced(before.file, changes))
        return True

    @contextmanager
    def writing(self) -> Iterator[IndexView]:
        """Exclude other writers of all processes, and start from the latest state; raises `IndexBusyError`."""
        self.check_writable()
        timeout = self.options.lock_timeout_s
        with self._changing:
            try:
                self._lock.acquire(timeout=timeout)
            except Timeout:
                raise IndexBusyError(
                    f"another process has been writing to {self.folder} for {timeout:g} s; try again later"
                ) from None
            try:
                self.refresh()
                yield self.current
            finally:
                self._lock.release()

    def put_backend(self, file: VectorFile, backend: Backend) -> None:
        """Replace the backend, unless the vectors have been moved out of `file` meanwhile."""
        with self._changing:
            if self.current.file is file:
                self.current = replace(self.current, backend=backend)

    def _load(self) -> IndexView:
        """Load everything; start again if a compaction removes files meanwhile."""
        while True:
            changes = self.table.changes()
            state = changes.state
            file = VectorFile(self.folder, state.volume, self.manifest.dimension)
            try:
                snapshot = Snapshot.load(file, changes)
                backend = self.options.open_backend(self.folder, self.manifest, state, self.options.writable)
            except IndexDamagedError:
                if self._is_in_use(state):
                    raise
                continue
            if self._is_in_use(state):
                return IndexView(snapshot=snapshot, file=file, backend=backend, ann_number=state.ann_number)

    def _is_in_use(self, state: TableState) -> bool:
        """Return whether the volume and ANN index of a state are still the ones in use."""
        now = self.table.state()
        return (now.volume, now.ann_number) == (state.volume, state.ann_number)
