"""The items of an index in one SQLite file: fields, thumbnails, and recent deletions. It decides what is indexed.

Every change is one transaction, synced to disk before it is acknowledged (write-ahead log, synchronous=FULL). Readers
in any thread or process see the state before or after it, never one in between.
"""

import json
import sqlite3
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hardrank.serving.store.database import LOCK_TIMEOUT_S, Database
from hardrank.serving.store.items import (
    ImageSource,
    Item,
    ListedItem,
    NewItem,
    Scalar,
    UnknownItemError,
    encode_metadata,
)

NO_LABEL: Final = -1
_VERSION: Final = 1
_MOST_PARAMETERS: Final = 10_000
_SCHEMA: Final = """
CREATE TABLE items(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, label TEXT, source TEXT, source_sha256 TEXT,
    metadata TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL) STRICT;
CREATE INDEX items_by_label ON items(label, row);
CREATE TABLE thumbnails(row INTEGER PRIMARY KEY, png BLOB NOT NULL) STRICT;
CREATE TABLE deletions(row INTEGER PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
CREATE TABLE state(
    one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, next_row INTEGER NOT NULL,
    volume INTEGER NOT NULL, base_slots INTEGER NOT NULL, base_row INTEGER NOT NULL, structure INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES (1, 0, 0, 1, 0, 0, 0);
"""
_ITEM: Final = "row, id, label, CAST(metadata AS BLOB), width, height"
_STATE_COLUMNS: Final[Mapping[str, str]] = {
    "generation": "generation",
    "next_row": "next_row",
    "volume": "volume",
    "base_slots": "base_slots",
    "base_row": "base_row",
    "ann_number": "structure",
}
"""Field of `TableState` → column of the table `state`."""


@dataclass(frozen=True, kw_only=True)
class TableState:
    """The single row of the table `state`: everything about a commit except the items."""

    generation: int
    """Number of commits so far."""
    next_row: int
    """Row of the next item; rows are never reused."""
    volume: int
    """Number of the vector file in use."""
    base_slots: int
    """Number of vectors that compaction wrote to this volume; a `.rows` file holds the rows they belong to."""
    base_row: int
    """First row after compaction: the vector of row r ≥ base_row is at slot base_slots + r − base_row."""
    ann_number: int
    """Number of the saved ANN index in use; 0: none."""

    @property
    def slots(self) -> int:
        """Vectors in the volume, including those of deleted items."""
        return self.base_slots + self.next_row - self.base_row


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What identifies an indexed image, to find out whether its file, label or metadata have changed since."""

    sha256: str | None
    """Of the file it was indexed from, hexadecimal."""
    label: str | None
    metadata: Mapping[str, Scalar]
    source: str | None
    """Path of that file; a file that was moved is the same image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TableChanges:
    """What was committed since a state, or everything."""

    state: TableState
    complete: bool
    """Whether these are all items, not only those that changed."""
    rows: npt.NDArray[np.int64]
    """(n,), ascending: the rows of all items, or of those added since."""
    labels: npt.NDArray[np.int32]
    """(n,), indices into `names`; −1: no label."""
    names: Sequence[str]
    deleted: npt.NDArray[np.int64]
    """Rows that were deleted since; empty if `complete`."""


class ItemTable:
    """The table in `path`. Any thread may read; writers must hold the index's lock."""

    def __init__(self, path: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S, immutable: bool | None = None) -> None:
        """Open the table; see `Database`."""
        self._database = Database(path, version=_VERSION, lock_timeout_s=lock_timeout_s, immutable=immutable)

    @staticmethod
    def create(path: Path) -> None:
        """Write an empty table to a new file."""
        Database.create(path, schema=_SCHEMA, version=_VERSION)

    def close(self) -> None:
        """Close the file; reads in progress finish."""
        self._database.close()

    # ------------------------------------------------------------------ reading

    def state(self) -> TableState:
        """Read the latest state."""
        with self._database.connection() as connection:
            return _state(connection)

    def changes(self, since: TableState | None = None) -> TableChanges:
        """Read what changed since a state; all items if it is None or the volume has changed."""
        with self._database.reading() as connection:
            state = _state(connection)
            complete = since is None or since.volume != state.volume
            first = 0 if since is None or complete else since.next_row
            found = connection.execute("SELECT row, label FROM items WHERE row >= ? ORDER BY row", (first,))
            rows, labels, names = _columns(found)
            deleted: list[tuple[int]] = []
            if since is not None and not complete:
                deleted = connection.execute(
                    "SELECT row FROM deletions WHERE generation > ? AND row < ?", (since.generation, since.next_row)
                ).fetchall()
        return TableChanges(
            state=state,
            complete=complete,
            rows=rows,
            labels=labels,
            names=names,
            deleted=np.array([row for (row,) in deleted], dtype=np.int64),
        )

    def items(self, rows: Sequence[int]) -> dict[int, Item]:
        """Return row → item of the rows that exist."""
        return {
            item.row: item for item in map(Item._make, self._among(f"SELECT {_ITEM} FROM items WHERE row IN", rows))
        }

    def item(self, id: str) -> Item:
        """Return the item with an id; raises `UnknownItemError`."""
        return Item._make(self._one(f"SELECT {_ITEM} FROM items WHERE id = ?", id))

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """Return id → row of the ids that are indexed."""
        return dict(self._among("SELECT id, row FROM items WHERE id IN", ids))

    def source_hashes(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Return id → SHA-256 of the file it was indexed from, of the ids that are indexed."""
        return dict(self._among("SELECT id, source_sha256 FROM items WHERE id IN", ids))

    def fingerprints(self, ids: Sequence[str]) -> dict[str, Fingerprint]:
        """Return id → fingerprint of the ids that are indexed."""
        found = self._among("SELECT id, source_sha256, label, metadata, source FROM items WHERE id IN", ids)
        return {
            id: Fingerprint(sha256=digest, label=label, metadata=json.loads(metadata), source=source)
            for id, digest, label, metadata, source in found
        }

    def thumbnail(self, id: str) -> bytes:
        """Return the PNG of an item, empty if it has none; raises `UnknownItemError`."""
        query = "SELECT png FROM items LEFT JOIN thumbnails USING (row) WHERE id = ?"
        return self._one(query, id)[0] or b""

    def source(self, id: str) -> ImageSource | None:
        """Return the file an item was indexed from, None if unknown; raises `UnknownItemError`."""
        return _source(*self._one("SELECT source, source_sha256 FROM items WHERE id = ?", id))

    def ids(self, *, start: int, count: int, label: str | None) -> list[str]:
        """Return at most `count` ids in row order, after skipping `start` of them."""
        where, values = ("", ()) if label is None else ("WHERE label = ?", (label,))
        query = f"SELECT id FROM items {where} ORDER BY row LIMIT ? OFFSET ?"
        with self._database.connection() as connection:
            return [id for (id,) in connection.execute(query, (*values, count, start))]

    def list_items(self, *, after: int = -1, count: int | None = None, label: str | None = None) -> list[ListedItem]:
        """Return the items with rows above `after` in row order, as of one commit: all, or at most `count`."""
        where, values = ("", ()) if label is None else ("AND label = ?", (label,))
        query = f"SELECT row, id, label, source, source_sha256 FROM items WHERE row > ? {where} ORDER BY row LIMIT ?"
        with self._database.connection() as connection:
            found = connection.execute(query, (after, *values, -1 if count is None else count))
            return [
                ListedItem(row=row, id=id, label=label, source=_source(path, digest))
                for row, id, label, path, digest in found
            ]

    def labels(self) -> dict[str, int]:
        """Return label → number of items, in alphabetical order."""
        query = "SELECT label, COUNT(*) FROM items WHERE label IS NOT NULL GROUP BY label ORDER BY label"
        with self._database.connection() as connection:
            return dict(connection.execute(query).fetchall())

    # ------------------------------------------------------------------ writing

    def add(self, items: Sequence[NewItem], *, replaced: Sequence[int] = ()) -> None:
        """Add items at rows from `next_row` on and delete the rows that they replace, all in one commit."""
        with self._database.writing() as connection:
            first = _state(connection).next_row
            _delete(connection, replaced)
            rows = range(first, first + len(items))
            connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(row, *_fields(item)) for row, item in zip(rows, items, strict=True)],
            )
            connection.executemany(
                "INSERT INTO thumbnails VALUES (?, ?)",
                [(row, item.thumbnail) for row, item in zip(rows, items, strict=True) if item.thumbnail],
            )
            _advance(connection, next_row=rows.stop)

    def delete(self, rows: Sequence[int]) -> None:
        """Delete the items at rows in one commit."""
        with self._database.writing() as connection:
            _delete(connection, rows)
            _advance(connection)

    def update_sources(self, sources: Mapping[str, str]) -> None:
        """Set the paths of the files of items, given id → path. Searches do not use them, so this is no new state."""
        with self._database.writing() as connection:
            connection.executemany(
                "UPDATE items SET source = ? WHERE id = ?", [(source, id) for id, source in sources.items()]
            )

    def update_state(self, **changes: int) -> None:
        """Switch to another vector file or ANN index: set fields of `TableState`."""
        with self._database.writing() as connection:
            if "volume" in changes:
                connection.execute("DELETE FROM deletions")
            _advance(connection, **changes)

    def free_space(self) -> None:
        """Return the space of deleted items to the file system."""
        self._database.free_space()

    # ------------------------------------------------------------------ parts

    def _one(self, query: str, id: str) -> tuple[Any, ...]:
        with self._database.connection() as connection:
            found = connection.execute(query, (id,)).fetchone()
        if found is None:
            raise UnknownItemError(f"no item has the id {id!r}")
        return tuple(found)

    def _among(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        with self._database.connection() as connection:
            for start in range(0, len(values), _MOST_PARAMETERS):
                part = list(values[start : start + _MOST_PARAMETERS])
                found += connection.execute(f"{query} ({','.join('?' * len(part))})", part).fetchall()
        return found


def _columns(found: Iterable[tuple[int, str | None]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], list[str]]:
    """Return rows, label numbers and label names, in typed arrays: a million Python objects would not be small."""
    rows, labels, numbers = array("q"), array("i"), dict[str, int]()
    for row, label in found:
        rows.append(row)
        labels.append(NO_LABEL if label is None else numbers.setdefault(label, len(numbers)))
    return np.array(rows, dtype=np.int64), np.array(labels, dtype=np.int32), list(numbers)


def _state(connection: sqlite3.Connection) -> TableState:
    found = connection.execute(f"SELECT {', '.join(_STATE_COLUMNS.values())} FROM state").fetchone()
    return TableState(**dict(zip(_STATE_COLUMNS, found, strict=True)))


def _advance(connection: sqlite3.Connection, **changes: int) -> None:
    assignments = "".join(f", {_STATE_COLUMNS[name]} = ?" for name in changes)
    connection.execute(f"UPDATE state SET generation = generation + 1{assignments}", tuple(changes.values()))


def _delete(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Delete rows as part of the commit in progress, which is the next generation."""
    generation = _state(connection).generation + 1
    one = [(row,) for row in rows]
    connection.executemany("DELETE FROM items WHERE row = ?", one)
    connection.executemany("DELETE FROM thumbnails WHERE row = ?", one)
    connection.executemany("INSERT INTO deletions VALUES (?, ?)", [(row, generation) for row in rows])


def _fields(item: NewItem) -> tuple[Any, ...]:
    """Return the values of the columns of `items` after `row`."""
    metadata = encode_metadata(item.metadata)
    return item.id, item.label, item.source, item.source_sha256, metadata, item.width, item.height


def _source(path: str | None, digest: str | None) -> ImageSource | None:
    return ImageSource(path=Path(path), sha256=digest) if path and digest else None
