"""One SQLite file: connections lent to one thread at a time, transactions, and its errors as those of an index."""

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from hardrank.serving.store.errors import IndexBusyError, IndexDamagedError, IndexingError, IndexWriteError

_BUSY_MS: Final = 30_000


class Database:
    """The database in `path`, of any thread's use. In a folder that nobody can write in, it is only read."""

    def __init__(self, path: Path, *, version: int) -> None:
        """Look at the file; raises `IndexDamagedError` where it is missing, unreadable or of another version."""
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False
        self._frozen = is_read_only(path.parent)
        if not path.is_file():
            raise IndexDamagedError(f"{path} is missing: the index cannot be read without it; build it again")
        if self._frozen:
            _check_whole(path)
        with self.connection() as connection:
            there = connection.execute("PRAGMA user_version").fetchone()[0]
        if there != version:
            raise IndexDamagedError(f"{path} has the schema version {there}; this version reads {version}")

    @staticmethod
    def create(path: Path, *, schema: str, version: int) -> None:
        """Write a database with the tables of `schema` to a new file."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")

    def close(self) -> None:
        """Close the connections that are not in use, and each other one as it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that nobody else uses meanwhile."""
        connection = None
        try:
            connection = self._borrow()
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise _as_ours(error, self._path) from error
            raise
        self._idle.append(connection)
        if self._closed:
            self.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees one state throughout the block."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Make one commit of what the block changes: on the disk when the block ends, or nothing where it raises."""
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite takes some back by itself, as on a full disk
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def free_space(self) -> None:
        """Give the space of deleted rows back to the disk."""
        with self.connection() as connection:
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        # Each connection is used by one thread at a time, though not always by the same.
        address = f"{self._path.resolve().as_uri()}{'?mode=ro&immutable=1' if self._frozen else ''}"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection


def is_read_only(folder: Path) -> bool:
    """Whether nothing can be written in a folder: a read-only mount, or somebody else's."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY) or not os.access(folder, os.W_OK)


def _check_whole(path: Path) -> None:
    """Raise `IndexDamagedError` where part of the table still lies in its log, which cannot be read without writing."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise IndexDamagedError(
            f"{log} holds what is not in {path.name} yet, and nothing can be written there: open the index once where "
            "it can be written, or let the server that uses it stop, and copy it again"
        )


def _as_ours(error: sqlite3.DatabaseError, path: Path) -> IndexingError:
    """Give the error of an index that an error of SQLite is; the lowest byte of its code is the kind."""
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if kind in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return IndexBusyError(f"another process has kept {path} locked for {_BUSY_MS // 1000} s; try again")
    if kind in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}:
        return IndexWriteError(f"{path} cannot be written ({error}); make room on the disk, and check its rights")
    return IndexDamagedError(f"{path} cannot be read ({error}); build the index again, or put a copy in its place")
