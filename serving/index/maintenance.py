"""Settling and compacting an index, in a thread of its own or when asked; the rest goes on meanwhile."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from filelock import FileLock, Timeout

from hardrank.serving.ann.backend import OptimizeOptions, ShowProgress
from hardrank.serving.ann.faiss_record import remove_other_structures
from hardrank.serving.index.state import WAIT_S, IndexState, SearchState
from hardrank.serving.store.errors import IndexBusyError
from hardrank.serving.store.snapshot import Snapshot
from hardrank.serving.store.vector_file import VectorFile, remove_other_volumes, write_volume

_LOG: Final = logging.getLogger(__name__)
_LOCK: Final = ".upkeep.lock"


class Maintenance:
    """The upkeep of one open index."""

    def __init__(self, holdings: IndexState, *, unasked: bool) -> None:
        """Take what is to be kept up; `unasked`: whether `tend` does anything."""
        self._holdings = holdings
        self._unasked = unasked
        self._busy = threading.Lock()
        self._ended = False

    def end(self) -> None:
        """Begin nothing more, and save nothing of what is under way."""
        self._ended = True

    def tend(self) -> None:
        """Settle in a thread of its own, where that is due and nobody does it already."""
        current = self._holdings.current
        if not self._unasked or self._ended or self._busy.locked() or not current.backend.is_stale(current.snapshot):
            return
        threading.Thread(target=self._tended, name="index upkeep", daemon=True).start()

    def optimize(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """See `SearchIndex.settle`."""
        with self._busy:
            current = self._holdings.current
            if current.backend.is_stale(current.snapshot):
                backend = current.backend.optimized(
                    current.snapshot, OptimizeOptions(threads=threads, progress=progress)
                )
                self._holdings.put_backend(current.file, backend)
            if self._holdings.writable and not self._ended:
                with self._alone(wait=False) as alone:
                    if alone:
                        self._save()

    def compact(self, *, threads: int = 0, progress: ShowProgress | None = None) -> None:
        """See `SearchIndex.compact`."""
        holdings = self._holdings
        holdings.check_writable()
        task = OptimizeOptions(anew=True, threads=threads, progress=progress)
        with self._busy, self._alone(wait=True):
            holdings.refresh()
            current = holdings.current
            if current.snapshot.dead:
                self._move(current, task)
            else:
                holdings.put_backend(current.file, current.backend.optimized(current.snapshot, task))
                self._save()
            remove_other_volumes(holdings.folder, holdings.current.file.volume)
            holdings.table.free_space()

    def _tended(self) -> None:
        try:
            self.optimize(threads=1)
        except Exception:
            if self._ended:
                return
            # Searches still work, exactly or with the former structure; whoever runs the server must know why.
            _LOG.exception("the upkeep of %s failed", self._holdings.folder)

    def _save(self) -> None:
        """Write the structure, where it has changed enough, and put it in force."""
        holdings = self._holdings
        current = holdings.current
        number = holdings.table.state().structure + 1
        if not current.backend.save(holdings.folder, number):
            return
        with holdings.writing() as latest:
            if latest.file is current.file:
                holdings.put(replace(latest, structure=number))
                holdings.table.adopt(structure=number)
                holdings.refresh()
        remove_other_structures(holdings.folder, number)

    def _move(self, current: SearchState, task: OptimizeOptions) -> None:
        """Write a volume without the vectors of deleted items, and what searches it, and put both in force."""
        holdings, folder = self._holdings, self._holdings.folder
        former, state = current.snapshot, current.snapshot.state
        volume, live = state.volume + 1, former.live_slots()
        write_volume(folder, volume, former.vectors, live, former.rows_of(live), task.at("moving vectors"))
        file = VectorFile(folder, volume, holdings.manifest.dimension)
        moved = replace(state, volume=volume, base_slots=len(live), base_row=state.next_row)
        backend = current.backend.optimized(former.compacted(file, moved), task)
        number = state.structure + 1
        structure = number if backend.save(folder, number) else 0
        with holdings.writing() as latest:
            # What was added meanwhile follows, dead or alive; what was deleted meanwhile is dead in the new volume too.
            file.write(len(live), latest.snapshot.vectors[former.slots :])
            holdings.table.adopt(volume=volume, base_slots=len(live), base_row=state.next_row, structure=structure)
            snapshot = Snapshot.load(file, holdings.table.changes())
            holdings.put(SearchState(snapshot=snapshot, file=file, backend=backend, structure=structure))
        remove_other_structures(folder, structure)

    @contextmanager
    def _alone(self, *, wait: bool) -> Iterator[bool]:
        """Keep other processes from saving structures and volumes; gives whether that could be had."""
        lock = FileLock(self._holdings.folder / _LOCK)
        try:
            lock.acquire(timeout=WAIT_S if wait else 0)
        except Timeout:
            if wait:
                raise IndexBusyError(f"another process is compacting {self._holdings.folder}; wait for it") from None
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
