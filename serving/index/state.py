"""What an open index holds, as of the latest commit; one writer at a time, of all processes, changes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hardrank.serving.ann.backend import Backend
from hardrank.serving.ann.registry import open_backend
from hardrank.serving.store.database import is_read_only
from hardrank.serving.store.errors import IndexBusyError, IndexDamagedError, ReadOnlyIndexError
from hardrank.serving.store.item_table import ItemTable, TableState
from hardrank.serving.store.manifest import IndexManifest
from hardrank.serving.store.snapshot import Snapshot
from hardrank.serving.store.vector_file import VectorFile, create_volume

WAIT_S: Final = 60.0
"""Seconds to wait for another process before giving up."""
_TABLE: Final = "items.sqlite"
_LOCK: Final = ".writing.lock"


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchState:
    """What a search works with; replaced as a whole."""

    snapshot: Snapshot
    file: VectorFile
    backend: Backend
    structure: int
    """The saved structure that the backend is, or comes from; 0: none."""


class IndexState:
    """The holdings of one open index. Whoever searches takes `current` once, and needs no lock."""

    def __init__(self, folder: Path, manifest: IndexManifest, *, writable: bool) -> None:
        """Read everything; raises `IndexDamagedError`, and `ReadOnlyIndexError` for what cannot be written."""
        if writable and is_read_only(folder):
            raise ReadOnlyIndexError(f"nothing can be written in {folder}; open the index for reading, or give rights")
        self.folder = folder
        self.manifest = manifest
        self.writable = writable
        self.table = ItemTable(folder / _TABLE)
        self._changing = threading.RLock()
        self._lock = FileLock(folder / _LOCK)
        self.current = self._load()
        """The latest that was taken over."""

    @staticmethod
    def create(folder: Path) -> None:
        """Write the files of an index that holds nothing."""
        ItemTable.create(folder / _TABLE)
        create_volume(folder, 1)

    def close(self) -> None:
        """Let go of files and memory; searches in flight finish."""
        self.current.backend.close()
        self.table.close()

    def check_writable(self) -> None:
        """Raise `ReadOnlyIndexError` where the index was opened for reading."""
        if not self.writable:
            raise ReadOnlyIndexError(f"the index {self.folder} was opened for reading; open it with writable=True")

    def refresh(self) -> bool:
        """Take over what was committed since, by whichever process; says whether there was anything."""
        with self._changing:
            before = self.current
            if self.table.state() == before.snapshot.state:
                return False
            changes = self.table.changes(before.snapshot.state)
            if changes.whole or changes.state.structure != before.structure:
                self.current = self._load()
            else:
                self.current = replace(before, snapshot=before.snapshot.advanced(before.file, changes))
        return True

    @contextmanager
    def writing(self) -> Iterator[SearchState]:
        """Keep other writers out, of all processes, and begin from the latest state; raises `IndexBusyError`."""
        self.check_writable()
        with self._changing:
            try:
                self._lock.acquire(timeout=WAIT_S)
            except Timeout:
                raise IndexBusyError(
                    f"another process has been writing to {self.folder} for {WAIT_S:.0f} s; wait for it and try again"
                ) from None
            try:
                self.refresh()
                yield self.current
            finally:
                self._lock.release()

    def put(self, current: SearchState) -> None:
        """Let searches use what a writer has made; only within `writing`."""
        self.current = current

    def put_backend(self, file: VectorFile, backend: Backend) -> None:
        """Let searches use another backend, unless the vectors have moved out of `file` meanwhile."""
        with self._changing:
            if self.current.file is file:
                self.current = replace(self.current, backend=backend)

    def _load(self) -> SearchState:
        """Read everything. A compaction may remove what was just looked up: then look again."""
        while True:
            changes = self.table.changes()
            state = changes.state
            file = VectorFile(self.folder, state.volume, self.manifest.dimension)
            try:
                snapshot = Snapshot.load(file, changes)
                backend = open_backend(self.folder, self.manifest, state, writable=self.writable)
            except IndexDamagedError:
                if self._is_in_force(state):
                    raise
                continue
            if self._is_in_force(state):
                return SearchState(snapshot=snapshot, file=file, backend=backend, structure=state.structure)

    def _is_in_force(self, state: TableState) -> bool:
        """Whether the volume and structure of a state are still those that count."""
        now = self.table.state()
        return (now.volume, now.structure) == (state.volume, state.structure)
