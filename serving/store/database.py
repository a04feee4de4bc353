"""One SQLite file: pooled connections, transactions, and SQLite's errors translated to those of an index."""

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from hardrank.serving.store.errors import IndexBusyError, IndexDamagedError, IndexingError, IndexWriteError

LOCK_TIMEOUT_S: Final = 60.0
"""Default seconds to wait for a lock that another process holds."""


class Database:
    """The database in `path`, for use by any thread."""

    def __init__(
        self, path: Path, *, version: int, lock_timeout_s: float = LOCK_TIMEOUT_S, immutable: bool | None = None
    ) -> None:
        """Check the file.

        Args:
            path: The SQLite file.
            version: Schema version that it must have.
            lock_timeout_s: Seconds to wait for another process before raising `IndexBusyError`.
            immutable: Whether nobody changes the file, so that it is read without locks and without writing beside it;
                None for True if its folder is read-only.

        Raises:
            IndexDamagedError: The file is missing, unreadable, or of another version.
        """
        self._path = path
        self._lock_timeout_s = lock_timeout_s
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False
        self._immutable = is_read_only(path.parent) if immutable is None else immutable
        if not path.is_file():
            raise IndexDamagedError(f"{path} is missing; build the index again, or restore a copy of the file")
        if self._immutable:
            _check_log_is_empty(path)
        with self.connection() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != version:
            raise IndexDamagedError(f"{path} has schema version {found}; this release reads version {version}")

    @staticmethod
    def create(path: Path, *, schema: str, version: int) -> None:
        """Write a new database with the tables of `schema`."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")

    def close(self) -> None:
        """Close idle connections now, and the others as soon as they are returned."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that nobody else uses within the block."""
        connection = None
        try:
            connection = self._borrow()
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise self._translated(error) from error
            raise
        self._idle.append(connection)
        if self._closed:
            self.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees the same commit throughout the block."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Commit the changes of the block at its end, synced to disk; roll back if it raises."""
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite rolls back by itself for some errors, such as a full disk
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def free_space(self) -> None:
        """Return the space of deleted rows to the file system."""
        with self.connection() as connection:
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        # A connection is used by one thread at a time, but not always by the same one.
        address = f"{self._path.resolve().as_uri()}{'?mode=ro&immutable=1' if self._immutable else ''}"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout={round(1000 * self._lock_timeout_s)}")
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _translated(self, error: sqlite3.DatabaseError) -> IndexingError:
        """Return the index error for an error of SQLite; the lowest byte of SQLite's code is its primary kind."""
        kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if kind in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return IndexBusyError(
                f"{self._path} has been locked by another process for {self._lock_timeout_s:g} s; try again later"
            )
        if kind in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}:
            return IndexWriteError(
                f"{self._path} cannot be written ({error}); check the free disk space and the file's permissions"
            )
        return IndexDamagedError(f"{self._path} cannot be read ({error}); build the index again, or restore a copy")


def is_read_only(folder: Path) -> bool:
    """Return whether this process cannot write in a folder."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY) or not os.access(folder, os.W_OK)


def _check_log_is_empty(path: Path) -> None:
    """Raise `IndexDamagedError` if commits are still in the write-ahead log: they cannot be read without writing."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise IndexDamagedError(
            f"{log} holds commits that are not in {path.name} yet, and the folder is read-only: open the index once "
            "where it can be written, or stop the server that uses it, then copy the folder again"
        )
