"""Optimizing and compacting an index, in a background thread or on request, while searches and changes go on."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from filelock import FileLock, Timeout

from hardrank.serving.ann.backend import OptimizeOptions, ShowProgress
from hardrank.serving.ann.faiss_record import remove_other_indexes
from hardrank.serving.index.state import IndexState, IndexView
from hardrank.serving.store.errors import IndexBusyError, trace_of
from hardrank.serving.store.snapshot import Snapshot
from hardrank.serving.store.vector_file import VectorFile, remove_other_volumes, write_volume

_LOG: Final = logging.getLogger(__name__)
_LOCK: Final = ".upkeep.lock"


class Maintenance:
    """The maintenance of one open index."""

    def __init__(self, state: IndexState) -> None:
        self._state = state
        self._running = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Start nothing more, and do not save what is in progress."""
        self._stopped = True

    def start_if_stale(self) -> None:
        """Optimize in a background thread if that is enabled, due, and not in progress."""
        current = self._state.current
        if not self._state.options.maintenance or self._stopped or self._running.locked():
            return
        if current.backend.is_stale(current.snapshot):
            threading.Thread(target=self._run, name="index maintenance", daemon=True).start()

    def optimize(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """See `SearchIndex.optimize`."""
        with self._running:
            current = self._state.current
            if current.backend.is_stale(current.snapshot):
                options = OptimizeOptions(threads=threads, progress=progress)
                backend = current.backend.optimized(current.snapshot, options)
                self._state.put_backend(current.file, backend)
            if self._state.options.writable and not self._stopped:
                with self._exclusive(wait=False) as acquired:
                    if acquired:
                        self._save()

    def compact(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """See `SearchIndex.compact`."""
        state = self._state
        state.check_writable()
        options = OptimizeOptions(rebuild=True, threads=threads, progress=progress)
        with self._running, self._exclusive(wait=True):
            state.refresh()
            current = state.current
            if current.snapshot.deleted:
                self._move(current, options)
            else:
                state.put_backend(current.file, current.backend.optimized(current.snapshot, options))
                self._save()
            remove_other_volumes(state.folder, state.current.file.volume)
            state.table.free_space()

    def _run(self) -> None:
        try:
            self.optimize(threads=1)
        except Exception as error:
            if self._stopped:
                return
            # Searches still work, exactly or with the former ANN index; whoever runs the server must know why.
            _LOG.error("the maintenance of %s failed: %s", self._state.folder, error, exc_info=trace_of(error))

    def _save(self) -> None:
        """Save the ANN index if it has changed enough, and put it in use."""
        state = self._state
        current = state.current
        number = state.table.state().ann_number + 1
        if not current.backend.save(state.folder, number):
            return
        with state.writing() as latest:
            if latest.file is current.file:
                state.current = replace(latest, ann_number=number)
                state.table.update_state(ann_number=number)
                state.refresh()
        # Where another process has compacted meanwhile, its ANN index is the one in use, not the one just saved.
        remove_other_indexes(state.folder, state.current.ann_number)

    def _move(self, current: IndexView, options: OptimizeOptions) -> None:
        """Write a volume without the vectors of deleted items and its ANN index, and put both in use."""
        state, folder = self._state, self._state.folder
        former, committed = current.snapshot, current.snapshot.state
        volume, live = committed.volume + 1, former.live_slots()
        progress = options.report("moving vectors")
        write_volume(folder, volume, former.vectors, live, former.rows_of(live), progress)
        file = VectorFile(folder, volume, state.manifest.dimension)
        moved = replace(committed, volume=volume, base_slots=len(live), base_row=committed.next_row)
        backend = current.backend.optimized(former.compacted(file, moved), options)
        number = committed.ann_number + 1
        ann_number = number if backend.save(folder, number) else 0
        with state.writing() as latest:
            # Append what was added meanwhile, live or deleted; what was deleted meanwhile is deleted there, too.
            file.write(len(live), latest.snapshot.vectors[former.slots :])
            state.table.update_state(
                volume=volume, base_slots=len(live), base_row=committed.next_row, ann_number=ann_number
            )
            snapshot = Snapshot.load(file, state.table.changes())
            state.current = IndexView(snapshot=snapshot, file=file, backend=backend, ann_number=ann_number)
        remove_other_indexes(folder, ann_number)

    @contextmanager
    def _exclusive(self, *, wait: bool) -> Iterator[bool]:
        """Keep other processes from saving ANN indexes and volumes; yields whether the lock was acquired."""
        lock = FileLock(self._state.folder / _LOCK)
        try:
            lock.acquire(timeout=self._state.options.lock_timeout_s if wait else 0)
        except Timeout:
            if wait:
                raise IndexBusyError(
                    f"another process is compacting {self._state.folder}; try again when it has finished"
                ) from None
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
