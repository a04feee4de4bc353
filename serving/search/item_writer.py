"""Adds and deletes items in the indexes of several models: in all or in none, even if the process is killed meanwhile.

Each index commits a change atomically, but there is no transaction across indexes. So a change of several indexes is
first recorded in a file of the same name in the folder of each. The files are removed, synced to disk, after the last
index has changed and before the change is acknowledged. Files that are all found later therefore belong to a change
that nobody was told about: an addition is undone, a deletion completed. If only some are found, no index has changed
yet, or all have. That comes before any other change, even of one index: it could be of the same item. Where only some
of the indexes are served, it cannot be decided, and the item stays as it is until all are.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Final, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from hardrank.models.files import sync, write_json
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.database import LOCK_TIMEOUT_S
from hardrank.serving.store.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexWriteError,
    ReadOnlyIndexError,
    UnfinishedChangeError,
    trace_of,
)
from hardrank.serving.store.items import DuplicateItemError, NewItem, UnknownItemError, same_metadata

_LOG: Final = logging.getLogger(__name__)
_SCHEMA: Final = "hardrank.pending-change/2"
_RECORDS: Final = "pending-*.json"
_LOCK: Final = ".pending.lock"


class _Part(BaseModel):
    """The change of one index. Name and model identify the index, wherever its folder is moved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    model_sha256: str
    row: int | None = None
    """Row of the item to delete; None for an addition."""


class _Record(BaseModel):
    """A change of one item in several indexes that is not acknowledged yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["hardrank.pending-change/2"] = _SCHEMA
    action: Literal["add", "delete"]
    id: str
    source_sha256: str | None = None
    """Of the image that is added."""
    parts: tuple[_Part, ...]


class ItemWriter:
    """Changes the indexes of several models together. One call at a time."""

    def __init__(self, indexes: Mapping[str, SearchIndex], *, reached: Callable[[str], None] | None = None) -> None:
        """Take the indexes by model key.

        Args:
            indexes: The indexes.
            reached: Called between the steps of a change with the name of the step, for tests that kill the process.
        """
        self._indexes = indexes
        self._reached = reached or (lambda _: None)

    def repair(self) -> None:
        """Undo the additions and complete the deletions that a killed process left.

        What concerns indexes that are not served, or are open for reading, stays as it is.
        """
        if not (records := self._records()):
            return
        if all(index.writable for index in self._indexes.values()):
            with self._locked():
                for error in self._settle().values():
                    _LOG.warning("%s", error)
            return
        for path, *_ in records.values():
            _LOG.warning("%s is a change that was interrupted; open its indexes for writing once to repair it", path)

    def settle(self) -> None:
        """Settle what is recorded, or raise `UnfinishedChangeError` if it also concerns indexes that are not here.

        For those who change one index as a whole: what they write could be undone later with the interrupted change.
        """
        if self._records():
            with self._locked():
                for error in self._settle().values():
                    raise error

    def add(self, items: Mapping[str, NewItem]) -> bool:
        """Add one image, given as one item per index; returns whether it is new.

        An image that exists with the same bytes, label and metadata stays as it is. Raises `DuplicateItemError` if the
        id belongs to another image, `UnfinishedChangeError`, and what `SearchIndex.add` raises.
        """
        first = next(iter(items.values()))
        with self._settled(first.id):
            missing = [key for key, item in items.items() if not self._exists(key, item)]
            if len(missing) < 2:
                for key in missing:
                    self._indexes[key].add([items[key]])
                return bool(missing)
            record = _Record(
                action="add",
                id=first.id,
                source_sha256=first.source_sha256,
                parts=tuple(_part(self._indexes[key]) for key in missing),
            )
            with self._recorded(record, missing):
                try:
                    for key in missing:
                        self._indexes[key].add([items[key]])
                        self._reached(f"added to {key}")
                except BaseException:
                    self._undo()
                    raise
        return True

    def delete(self, id: str) -> None:
        """Delete an item from every index that has it; raises `UnknownItemError` if none has, `UnfinishedChangeError`.

        A deletion that fails in one index is completed before the next change, or when the server starts again.
        """
        if not self._rows(id):
            raise UnknownItemError(f"no item has the id {id!r}")
        with self._settled(id):
            rows = self._rows(id)  # none left if this repeats a deletion that was completed just now
            if len(rows) < 2:
                for key in rows:
                    self._indexes[key].delete([id])
                return
            parts = tuple(_part(self._indexes[key], row=row) for key, row in rows.items())
            with self._recorded(_Record(action="delete", id=id, parts=parts), rows):
                for key in rows:
                    self._indexes[key].delete([id])
                    self._reached(f"deleted from {key}")

    # ------------------------------------------------------------------ parts

    def _rows(self, id: str) -> dict[str, int]:
        """Return the row of an item by model key, for the indexes that have it."""
        return {key: found[id] for key, index in self._indexes.items() if (found := index.rows([id]))}

    def _exists(self, key: str, item: NewItem) -> bool:
        index = self._indexes[key]
        sources = index.source_hashes([item.id])
        if item.id not in sources:
            return False
        existing = index.item(item.id)
        same = (
            sources[item.id] == item.source_sha256
            and existing.label == item.label
            and same_metadata(existing.metadata, item.metadata)
        )
        if not same:
            raise DuplicateItemError(
                f"the id {item.id!r} is taken by another image, or by this image with another label or metadata; "
                "delete it first, or choose another id"
            )
        return True

    @contextmanager
    def _settled(self, id: str) -> Iterator[None]:
        """Settle what is recorded, and keep others from recording more during the block, which changes the item `id`.

        What the change has to do may only be read inside: settling changes it.
        """
        for index in self._indexes.values():
            if not index.writable:
                raise ReadOnlyIndexError(f"the index {index.folder} was opened for reading; open it with writable=True")
        with self._locked():
            if (error := self._settle().get(id)) is not None:
                raise error
            yield

    @contextmanager
    def _recorded(self, record: _Record, keys: Iterable[str]) -> Iterator[None]:
        """Record a change of the indexes `keys` until the block ends; if it raises, the record stays unless settled."""
        name = _RECORDS.replace("*", token_hex(8))
        copies = [self._indexes[key].folder.resolve() / name for key in keys]
        self._reached("begin")
        for path in copies:
            _write(path, record)
            self._reached(f"recorded in {path.parent.name}")
        yield
        for path in copies:
            _remove(path)
            self._reached(f"removed from {path.parent.name}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing several indexes, so that a record here is of a process that ended."""
        with ExitStack() as locks:
            for folder in self._folders():
                lock = FileLock(folder / _LOCK)
                try:
                    lock.acquire(timeout=LOCK_TIMEOUT_S)
                except Timeout:
                    raise IndexBusyError(
                        f"another process has been changing {folder} and other indexes for {LOCK_TIMEOUT_S:g} s; try "
                        "again later"
                    ) from None
                locks.callback(lock.release)
            yield

    def _folders(self) -> list[Path]:
        """Return the folders of the indexes, in the order in which every process locks them."""
        return sorted({index.folder.resolve() for index in self._indexes.values()})

    def _records(self) -> dict[str, list[Path]]:
        """Return the copies of each record in the folders of the indexes, by their name."""
        copies = defaultdict[str, list[Path]](list)
        for folder in self._folders():
            for path in sorted(folder.glob(_RECORDS)):
                copies[path.name].append(path)
        return copies

    def _undo(self) -> None:
        try:
            self._settle()
        except Exception as error:
            _LOG.error(
                "an addition cannot be undone now, but will be before the next change: %s",
                error,
                exc_info=trace_of(error),
            )

    def _settle(self) -> dict[str, UnfinishedChangeError]:
        """Undo or complete what is recorded; return by id why a change stays recorded."""
        waiting: dict[str, UnfinishedChangeError] = {}
        for copies in self._records().values():
            record = _read(copies[0])
            changed = [
                (index, part)
                for part in record.parts
                for index in self._indexes.values()
                if _part(index, row=part.row) == part
            ]
            served = {part for _, part in changed}
            if others := [part.folder for part in record.parts if part not in served]:
                waiting[record.id] = UnfinishedChangeError(
                    f"{copies[0]} is a change of {record.id!r} that was interrupted, also in the index {others[0]}; "
                    "serve both together once, or remove the file if that index no longer exists"
                )
                continue
            if {index.folder.resolve() for index, _ in changed} == {path.parent for path in copies}:
                for index, part in changed:
                    if _is_left(index, record, part):
                        index.delete([record.id])
            for path in copies:
                _remove(path)
        return waiting


def _part(index: SearchIndex, *, row: int | None = None) -> _Part:
    return _Part(folder=index.folder.resolve().name, model_sha256=index.manifest.model_sha256, row=row)


def _is_left(index: SearchIndex, record: _Record, part: _Part) -> bool:
    """Return whether the index holds what an unfinished addition added, or an unfinished deletion has to delete."""
    if record.action == "delete":
        return index.rows([record.id]).get(record.id) == part.row
    hashes: Mapping[str, str | None] = index.source_hashes([record.id])
    return record.id in hashes and hashes[record.id] == record.source_sha256


def _read(path: Path) -> _Record:
    try:
        return _Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise IndexDamagedError(
            f"{path} cannot be read; it records a change that was interrupted. Compare the indexes of the models, then "
            "remove the file"
        ) from error


def _write(path: Path, record: _Record) -> None:
    try:
        write_json(path, record.model_dump(mode="json"))
        sync(path.parent)
    except OSError as error:
        raise IndexWriteError(
            f"{path} cannot be written ({error.strerror}); check the disk space and permissions"
        ) from error


def _remove(path: Path) -> None:
    try:
        path.unlink()
        sync(path.parent)
    except OSError as error:
        raise IndexWriteError(f"{path} cannot be removed ({error.strerror}); check the permissions") from error
