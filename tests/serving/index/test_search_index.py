"""An index finds what a plain comparison finds, and keeps what was acknowledged."""

import errno
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexExistsError,
    IndexNotFoundError,
    IndexWriteError,
    InvalidSearchError,
    ReadOnlyIndexError,
    WrongModelError,
)
from hardrank.serving.store.items import (
    DuplicateItemError,
    InvalidItemError,
    NewItem,
    UnknownItemError,
    UnknownLabelError,
)
from tests.serving.bundles import DIMENSION
from tests.serving.conftest import make_manifest, new_items, unit_vectors


def _plain(queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], k: int) -> list[list[int]]:
    """The numbers of the k nearest vectors to each query, by sorting all."""
    found = []
    for query in queries:
        scores = [float(np.dot(vector.astype(np.float64), query.astype(np.float64))) for vector in vectors]
        found.append(sorted(range(len(vectors)), key=lambda number: (-scores[number], number))[:k])
    return found


def _ids(index: SearchIndex, queries: npt.NDArray[np.float32], k: int, **options: object) -> list[list[str]]:
    return [[match.item.id for match in matches] for matches in index.search(queries, k, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("queries", "k"), [(1, 1), (1, 10), (7, 10), (64, 300), (3, 299)])
def test_search_is_what_sorting_all_gives(index: SearchIndex, queries: int, k: int) -> None:
    vectors, asked = unit_vectors(300), unit_vectors(queries, seed=1)
    index.add(new_items(vectors[:100]))
    index.add(new_items(vectors[100:], start=100))
    expected = [[f"item-{number}" for number in numbers] for numbers in _plain(asked, vectors, k)]
    assert _ids(index, asked, k) == expected
    first = index.search(asked, k)[0]
    assert [match.rank for match in first] == list(range(1, k + 1))
    assert first[0].score == pytest.approx(float(vectors[int(first[0].item.id[5:])] @ asked[0]), abs=1e-6)


def test_equal_scores_keep_the_order_of_addition(index: SearchIndex) -> None:
    vector = unit_vectors(1)[0]
    index.add([NewItem(id=f"twin-{number}", vector=vector) for number in range(40)])
    index.add(new_items(unit_vectors(200, seed=1)))
    for k in (1, 7, 40):
        assert _ids(index, vector[None], k) == [[f"twin-{number}" for number in range(k)]]
        assert _ids(index, vector[None], k, exclude=["twin-0"])[0][0] == "twin-1"


def test_search_within_a_label_and_without_the_query_itself(index: SearchIndex) -> None:
    vectors = unit_vectors(60)
    index.add(new_items(vectors, labels=3))
    own = [number for number in _plain(vectors[:1], vectors, 60)[0] if number % 3 == 0]
    assert _ids(index, vectors[:1], 60, label="label-0") == [[f"item-{number}" for number in own]]
    assert _ids(index, vectors[:1], 20, label="label-0", exclude=["item-0"]) == [
        [f"item-{number}" for number in own if number != 0]
    ]
    with pytest.raises(UnknownLabelError, match="'label-9'"):
        index.search(vectors[:1], 1, label="label-9")


def test_deleted_items_are_gone_and_their_ids_free(index: SearchIndex) -> None:
    vectors = unit_vectors(50)
    index.add(new_items(vectors))
    index.delete(["item-3", "item-4"])
    kept = [number for number in _plain(vectors[3:4], vectors, 50)[0] if number not in {3, 4}]
    assert _ids(index, vectors[3:4], 48) == [[f"item-{number}" for number in kept]]
    with pytest.raises(UnknownItemError, match="item-3"):
        index.item("item-3")
    index.add(new_items(vectors[3:4], start=3))
    assert index.item("item-3").row == 50
    assert _ids(index, vectors[3:4], 1) == [["item-3"]]


def test_changes_are_all_or_nothing(index: SearchIndex) -> None:
    vectors = unit_vectors(10)
    index.add(new_items(vectors))
    with pytest.raises(DuplicateItemError, match="'item-3'"):
        index.add([NewItem(id="new", vector=vectors[0]), NewItem(id="item-3", vector=vectors[0])])
    with pytest.raises(DuplicateItemError, match="twice"):
        index.add([NewItem(id="new", vector=vectors[0]), NewItem(id="new", vector=vectors[0])])
    with pytest.raises(InvalidItemError, match="norm"):
        index.add([NewItem(id="new", vector=vectors[0]), NewItem(id="long", vector=2 * vectors[0])])
    with pytest.raises(InvalidItemError, match="shape"):
        index.add([NewItem(id="new", vector=vectors[0, :-1])])
    with pytest.raises(UnknownItemError, match="'absent'"):
        index.delete(["item-1", "absent"])
    assert index.size == len(index.ids()) == 10
    assert index.generation == 1


@pytest.mark.parametrize("k", [0, -1, 11, True, 2.0, float("nan"), "3"])
def test_impossible_k_is_refused(index: SearchIndex, k: int) -> None:
    vectors = unit_vectors(10)
    index.add(new_items(vectors))
    with pytest.raises(InvalidSearchError, match="from 1 to 10"):
        index.search(vectors[:1], k)


def test_a_k_that_items_have_left_behind_finds_all(index: SearchIndex) -> None:
    vectors = unit_vectors(10)
    index.add(new_items(vectors))
    assert _ids(index, vectors[:1], 25, fewer=True) == _ids(index, vectors[:1], 10)
    with pytest.raises(InvalidSearchError, match="k is 0"):
        index.search(vectors[:1], 0, fewer=True)


def test_an_empty_index_says_so(index: SearchIndex) -> None:
    with pytest.raises(InvalidSearchError, match="the index index is empty"):
        index.search(unit_vectors(1), 1)
    assert (index.size, index.ids(), index.labels(), index.stats().size) == (0, [], {}, 0)
    index.compact(threads=1)
    index.add(new_items(unit_vectors(1)))
    index.delete(["item-0"])
    index.compact(threads=1)
    assert index.stats().deleted == 0


@pytest.mark.parametrize(
    "queries",
    [
        np.full((1, DIMENSION), np.nan),
        np.zeros((1, DIMENSION)),
        np.ones((1, DIMENSION)),
        np.ones(DIMENSION),
        np.ones((1, DIMENSION + 1)),
        np.full((1, DIMENSION), np.inf),
    ],
)
def test_queries_off_the_sphere_are_refused(index: SearchIndex, queries: npt.NDArray[np.float32]) -> None:
    index.add(new_items(unit_vectors(10)))
    with pytest.raises(InvalidSearchError, match="queries"):
        index.search(queries, 1)


def test_a_reader_sees_another_writer_after_refresh(index: SearchIndex) -> None:
    vectors = unit_vectors(40)
    index.add(new_items(vectors[:20], labels=2))
    with SearchIndex.open(index.folder) as reader:
        index.add(new_items(vectors[20:], start=20, labels=4))
        index.delete(["item-0", "item-25"])
        assert reader.size == 20
        assert reader.refresh()
        assert not reader.refresh()
        kept = [n for n in _plain(vectors[:1], vectors, 40)[0] if n not in {0, 25}]
        assert _ids(reader, vectors[:1], 38) == [[f"item-{n}" for n in kept]]
        assert reader.labels() == index.labels() == {"label-0": 14, "label-1": 14, "label-2": 5, "label-3": 5}
        assert reader.ids(label="label-3") == ["item-23", "item-27", "item-31", "item-35", "item-39"]


def test_what_was_deleted_elsewhere_is_not_answered(index: SearchIndex) -> None:
    vectors = unit_vectors(40)
    index.add(new_items(vectors))
    with SearchIndex.open(index.folder) as reader:
        nearest = _plain(vectors[:1], vectors, 40)[0]
        index.delete([f"item-{nearest[1]}"])
        assert _ids(reader, vectors[:1], 3) == [[f"item-{n}" for n in (nearest[0], nearest[2], nearest[3])]]


def test_items_come_back_as_they_were_given(index: SearchIndex, tmp_path: Path) -> None:
    source = tmp_path / "one.png"
    source.write_bytes(b"bytes of an image")
    vector = unit_vectors(1)[0]
    digest = "3d3a1b4c"
    item = NewItem(
        id="Zürich 1.png",
        vector=vector,
        label="city",
        source=str(source),
        source_sha256=digest,
        metadata={"year": 1999, "note": "ü", "seen": True, "score": 0.5, "none": None},
        thumbnail=b"\x89PNG\r\n\x1a\n...",
        width=3,
        height=4,
    )
    index.add([item, NewItem(id="bare", vector=vector)])
    with SearchIndex.open(index.folder) as reader:
        found = reader.item("Zürich 1.png")
        assert (found.label, found.metadata, found.width, found.height) == ("city", item.metadata, 3, 4)
        assert reader.thumbnail("Zürich 1.png") == item.thumbnail
        assert reader.thumbnail("bare") == b""
        assert np.array_equal(reader.vector("Zürich 1.png"), vector)
        assert reader.original("Zürich 1.png") is None  # another file than the one that was indexed
        assert reader.original("bare") is None
        assert reader.source_hashes(["Zürich 1.png", "bare", "absent"]) == {"Zürich 1.png": digest, "bare": None}


def test_the_original_is_served_while_it_is_the_same(index: SearchIndex, tmp_path: Path) -> None:
    import hashlib

    source = tmp_path / "one.png"
    source.write_bytes(b"bytes of an image")
    digest = hashlib.sha256(b"bytes of an image").hexdigest()
    index.add([NewItem(id="one", vector=unit_vectors(1)[0], source=str(source), source_sha256=digest)])
    assert index.original("one") == b"bytes of an image"
    source.write_bytes(b"bytes of another")
    assert index.original("one") is None
    source.unlink()
    assert index.original("one") is None


def test_opening_says_what_is_wrong(index: SearchIndex, tmp_path: Path) -> None:
    folder = index.folder
    index.add(new_items(unit_vectors(10)))
    index.close()
    with pytest.raises(WrongModelError, match=r"tiny-benign \(SHA-256 000000000000…\)"):
        SearchIndex.open(folder, model_sha256="1" * 64)
    with pytest.raises(IndexNotFoundError, match="build one with"):
        SearchIndex.open(tmp_path / "nowhere")
    with pytest.raises(IndexExistsError, match="is there already"):
        SearchIndex.create(folder, manifest=make_manifest())
    with SearchIndex.open(folder) as reader, pytest.raises(ReadOnlyIndexError, match="for reading"):
        reader.delete(["item-0"])


@pytest.mark.parametrize("name", ["index.json", "items.sqlite", "vectors.f32"])
@pytest.mark.parametrize("damage", ["missing", "short", "garbage"])
def test_damage_is_named(index: SearchIndex, name: str, damage: str) -> None:
    index.add(new_items(unit_vectors(2000)))
    index.close()
    path = index.folder / name
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:50])
    elif name == "vectors.f32":
        pytest.skip("any bytes are vectors")
    else:
        path.write_bytes(b"\x00garbage" * 5000)
    if name == "index.json" and damage == "missing":
        with pytest.raises(IndexNotFoundError):
            SearchIndex.open(index.folder)
    else:
        with pytest.raises(IndexDamagedError, match=name):
            SearchIndex.open(index.folder)


def test_an_index_that_cannot_be_written_can_be_read(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(20)
    index.add(new_items(vectors))
    monkeypatch.setattr("hardrank.serving.store.database.is_read_only", lambda folder: True)
    with pytest.raises(IndexDamagedError, match=r"items.sqlite-wal holds what is not in items.sqlite yet"):
        SearchIndex.open(index.folder)
    index.close()
    before = sorted(path.name for path in index.folder.iterdir())
    with SearchIndex.open(index.folder) as reader:
        assert _ids(reader, vectors[:1], 1) == [["item-0"]]
        assert not reader.refresh()
        assert sorted(path.name for path in index.folder.iterdir()) == before
    monkeypatch.setattr("hardrank.serving.index.state.is_read_only", lambda folder: True)
    with pytest.raises(ReadOnlyIndexError, match="nothing can be written in"):
        SearchIndex.open(index.folder, writable=True)


def test_a_full_disk_changes_nothing(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(40)
    index.add(new_items(vectors[:10]))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("hardrank.serving.store.vector_file.os.pwrite", full)
        with pytest.raises(IndexWriteError, match=r"vectors.f32 cannot be written \(No space"):
            index.add(new_items(vectors[10:], start=10))
    with index._table._database.connection() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}").fetchone()
    big = [NewItem(id=f"big-{n}", vector=vectors[10], metadata={"text": "x" * 15_000}) for n in range(20)]
    with pytest.raises(IndexWriteError, match=r"items.sqlite cannot be written \(database or disk is full\)"):
        index.add(big)
    assert (index.size, index.generation) == (10, 1)
    index.add(new_items(vectors[10:], start=10))
    with SearchIndex.open(index.folder) as reader:
        for number in range(40):
            assert np.array_equal(reader.vector(f"item-{number}"), vectors[number])


def test_a_table_that_stays_locked_is_named(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardrank.serving.store.database._BUSY_MS", 20)
    with SearchIndex.open(index.folder, writable=True) as other, other._table._database.connection() as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexBusyError, match="locked"):
            SearchIndex.open(index.folder, writable=True).add(new_items(unit_vectors(1)))
        connection.execute("ROLLBACK")


def test_another_writer_is_waited_for(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardrank.serving.index.state.WAIT_S", 0.05)
    with SearchIndex.open(index.folder, writable=True) as other:
        with other._writing(), pytest.raises(IndexBusyError, match="another process has been writing"):
            index.add(new_items(unit_vectors(1)))
        index.add(new_items(unit_vectors(1)))
        with pytest.raises(DuplicateItemError):
            other.add(new_items(unit_vectors(1)))
