"""Transactions are all or nothing, and SQLite's errors become those of an index."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hardrank.serving.store.database import Database
from hardrank.serving.store.errors import IndexBusyError, IndexDamagedError, IndexWriteError

SCHEMA = "CREATE TABLE numbers(value INTEGER NOT NULL, text TEXT) STRICT;"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Database.create(tmp_path / "x.sqlite", schema=SCHEMA, version=3)
    return tmp_path / "x.sqlite"


def _values(database: Database) -> list[int]:
    with database.reading() as connection:
        return [value for (value,) in connection.execute("SELECT value FROM numbers ORDER BY value")]


def _insert_and_fail(database: Database, value: int) -> None:
    with database.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (?, NULL)", (value,))
        raise ZeroDivisionError


def test_a_block_that_raises_changes_nothing(path: Path) -> None:
    database = Database(path, version=3)
    with database.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (1, NULL)")
    with pytest.raises(ZeroDivisionError):
        _insert_and_fail(database, 2)
    assert _values(database) == [1]


def test_a_reader_sees_one_commit_throughout_its_block(path: Path) -> None:
    database = Database(path, version=3)
    with database.reading() as reader:
        assert reader.execute("SELECT COUNT(*) FROM numbers").fetchone() == (0,)
        with database.writing() as connection:
            connection.execute("INSERT INTO numbers VALUES (1, NULL)")
        assert reader.execute("SELECT COUNT(*) FROM numbers").fetchone() == (0,)
    assert _values(database) == [1]


def test_a_full_database_is_a_write_error_and_changes_nothing(path: Path) -> None:
    database = Database(path, version=3)
    with database.connection() as connection:  # the pool lends this connection again
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}").fetchone()
    with pytest.raises(IndexWriteError, match="full"), database.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (1, ?)", ("x" * 100_000,))
    assert _values(Database(path, version=3)) == []


def test_a_locked_database_is_busy_after_the_time_out(path: Path) -> None:
    database = Database(path, version=3, lock_timeout_s=0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexBusyError, match=r"0\.01 s"), database.writing():
            pass


@pytest.mark.parametrize("damage", ["missing", "not a database", "other version"])
def test_a_damaged_database_is_refused(path: Path, damage: str) -> None:
    if damage == "missing":
        path.unlink()
    elif damage == "not a database":
        path.write_bytes(b"text" * 2000)
    with pytest.raises(IndexDamagedError, match=r"x\.sqlite"):
        Database(path, version=4 if damage == "other version" else 3)


def test_closing_removes_the_files_beside_the_database(path: Path) -> None:
    database = Database(path, version=3)
    with database.writing() as connection:
        connection.execute("INSERT INTO numbers VALUES (1, NULL)")
        database.close()  # a connection in use is closed when it is returned
    assert [file.name for file in path.parent.iterdir()] == ["x.sqlite"]
    assert _values(Database(path, version=3, immutable=True)) == [1]
