"""An index finds what a naive comparison finds, and keeps what it acknowledged."""

import hashlib
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.index.state import TABLE, WRITE_LOCK
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
    ImageSource,
    InvalidItemError,
    NewItem,
    UnknownItemError,
    UnknownLabelError,
)
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from tests.serving.bundles import DIMENSION
from tests.serving.conftest import make_manifest, new_items, unit_vectors


def _sorted(queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], k: int) -> list[list[int]]:
    """Return the numbers of the k nearest vectors to each query, by sorting all scores."""
    found = []
    for query in queries:
        scores = [float(np.dot(vector.astype(np.float64), query.astype(np.float64))) for vector in vectors]
        found.append(sorted(range(len(vectors)), key=lambda number: (-scores[number], number))[:k])
    return found


def _ids(index: SearchIndex, queries: npt.NDArray[np.float32], k: int, **options: object) -> list[list[str]]:
    return [[match.item.id for match in matches] for matches in index.search(queries, k, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("queries", "k"), [(1, 1), (1, 10), (7, 10), (64, 300), (3, 299)])
def test_search_equals_sorting_all_scores(index: SearchIndex, queries: int, k: int) -> None:
    vectors, asked = unit_vectors(300), unit_vectors(queries, seed=1)
    index.add(new_items(vectors[:100]))
    index.add(new_items(vectors[100:], start=100))
    expected = [[f"item-{number}" for number in numbers] for numbers in _sorted(asked, vectors, k)]
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
    own = [number for number in _sorted(vectors[:1], vectors, 60)[0] if number % 3 == 0]
    assert _ids(index, vectors[:1], 60, label="label-0") == [[f"item-{number}" for number in own]]
    assert _ids(index, vectors[:1], 20, label="label-0", exclude=["item-0"]) == [
        [f"item-{number}" for number in own if number != 0]
    ]
    with pytest.raises(UnknownLabelError, match="'label-9'"):
        index.search(vectors[:1], 1, label="label-9")


def test_deleted_items_are_not_found_and_their_ids_can_be_reused(index: SearchIndex) -> None:
    vectors = unit_vectors(50)
    index.add(new_items(vectors))
    index.delete(["item-3", "item-4"])
    kept = [number for number in _sorted(vectors[3:4], vectors, 50)[0] if number not in {3, 4}]
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
    with pytest.raises(DuplicateItemError, match="duplicate"):
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


def test_a_k_above_the_size_finds_all_if_fewer_are_allowed(index: SearchIndex) -> None:
    vectors = unit_vectors(10)
    index.add(new_items(vectors))
    assert _ids(index, vectors[:1], 25, fewer=True) == _ids(index, vectors[:1], 10)
    with pytest.raises(InvalidSearchError, match="k is 0"):
        index.search(vectors[:1], 0, fewer=True)


def test_searching_an_empty_index_is_refused(index: SearchIndex) -> None:
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
def test_queries_that_are_not_of_norm_1_are_refused(index: SearchIndex, queries: npt.NDArray[np.float32]) -> None:
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
        kept = [n for n in _sorted(vectors[:1], vectors, 40)[0] if n not in {0, 25}]
        assert _ids(reader, vectors[:1], 38) == [[f"item-{n}" for n in kept]]
        assert reader.labels() == index.labels() == {"label-0": 14, "label-1": 14, "label-2": 5, "label-3": 5}
        assert reader.ids(label="label-3") == ["item-23", "item-27", "item-31", "item-35", "item-39"]


def test_items_deleted_by_another_process_are_not_returned(index: SearchIndex) -> None:
    vectors = unit_vectors(40)
    index.add(new_items(vectors))
    with SearchIndex.open(index.folder) as reader:
        nearest = _sorted(vectors[:1], vectors, 40)[0]
        index.delete([f"item-{nearest[1]}"])
        assert _ids(reader, vectors[:1], 3) == [[f"item-{n}" for n in (nearest[0], nearest[2], nearest[3])]]


def test_items_keep_their_fields(index: SearchIndex, tmp_path: Path) -> None:
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


def test_the_original_is_returned_while_the_file_is_unchanged(index: SearchIndex, tmp_path: Path) -> None:
    source = tmp_path / "one.png"
    source.write_bytes(b"bytes of an image")
    digest = hashlib.sha256(b"bytes of an image").hexdigest()
    index.add([NewItem(id="one", vector=unit_vectors(1)[0], source=str(source), source_sha256=digest)])
    with SearchIndex.open(index.folder, maintenance=False) as reader:
        (listed,) = reader.list_items()
    assert listed.source == ImageSource(path=source, sha256=digest)
    assert index.original("one") == listed.source.read() == b"bytes of an image"
    source.write_bytes(b"bytes of another")
    assert index.original("one") is listed.source.read() is None
    source.unlink()
    assert index.original("one") is None


def test_opening_reports_the_cause_of_failure(index: SearchIndex, tmp_path: Path) -> None:
    folder = index.folder
    index.add(new_items(unit_vectors(10)))
    index.close()
    with pytest.raises(WrongModelError, match=r"tiny-benign \(SHA-256 000000000000…\)"):
        SearchIndex.open(folder, model_sha256="1" * 64)
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IndexNotFoundError, match=r"is not an index.* build one with"):
            SearchIndex.open(place)
    with pytest.raises(IndexExistsError, match="already exists"):
        SearchIndex.create(folder, manifest=make_manifest())
    with SearchIndex.open(folder) as reader, pytest.raises(ReadOnlyIndexError, match="for reading"):
        reader.delete(["item-0"])


@pytest.mark.parametrize("name", ["index.json", "items.sqlite", "vectors.f32"])
@pytest.mark.parametrize("damage", ["missing", "short", "garbage"])
def test_a_damaged_file_is_named(index: SearchIndex, name: str, damage: str) -> None:
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


def test_an_immutable_index_is_read_and_nothing_is_written_beside_it(index: SearchIndex) -> None:
    vectors = unit_vectors(20)
    index.add(new_items(vectors))
    with pytest.raises(IndexDamagedError, match=r"items.sqlite-wal holds commits"):
        SearchIndex.open(index.folder, immutable=True)
    index.close()
    before = sorted(path.name for path in index.folder.iterdir())
    with SearchIndex.open(index.folder, immutable=True) as reader:
        assert _ids(reader, vectors[:1], 1) == [["item-0"]]
        assert not reader.refresh()
        assert sorted(path.name for path in index.folder.iterdir()) == before
    with pytest.raises(ReadOnlyIndexError, match="read-only"):
        SearchIndex.open(index.folder, writable=True, immutable=True)


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: writes fail with EFBIG, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_changes_nothing(index: SearchIndex) -> None:
    vectors = unit_vectors(4000)
    index.add(new_items(vectors[:10]))
    with _file_size_limit(100_000), pytest.raises(IndexWriteError, match=r"vectors\.f32 cannot be written"):
        index.add(new_items(vectors[10:], start=10))
    large = [NewItem(id=f"large-{n}", vector=vectors[10], metadata={"text": "x" * 15_000}) for n in range(20)]
    with _file_size_limit(200_000), pytest.raises(IndexWriteError, match=r"items\.sqlite cannot be written"):
        index.add(large)
    assert (index.size, index.generation) == (10, 1)
    index.add(new_items(vectors[10:40], start=10))
    with SearchIndex.open(index.folder) as reader:
        assert np.array_equal(reader.vectors([f"item-{number}" for number in range(40)]), vectors[:40])


def test_a_compaction_that_fails_names_its_file_and_changes_nothing(index: SearchIndex) -> None:
    vectors = unit_vectors(4000)
    index.add(new_items(vectors))
    index.delete([f"item-{number}" for number in range(10)])
    for limit, name in ((10_000, "vectors-0002"), (100_000, "vectors-0002")):  # at the rows, and at the vectors
        with _file_size_limit(limit), pytest.raises(IndexWriteError, match=rf"{name}\.f32 cannot be written"):
            index.compact()
    assert (index.size, index.stats().deleted) == (3990, 10)
    index.compact()
    assert np.array_equal(index.vectors([f"item-{number}" for number in range(10, 4000)]), vectors[10:])


def test_an_ann_index_that_cannot_be_saved_is_used_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = make_manifest(backend=BackendOptions(structure=AnnKind.IVF_SQ8))
    vectors = unit_vectors(3000)
    with SearchIndex.create(tmp_path / "ann", manifest=manifest, maintenance=False) as index:
        index.add(new_items(vectors))
        with _file_size_limit(30_000), pytest.raises(IndexWriteError, match=r"0001\.faiss cannot be written"):
            index.optimize()
        assert index.stats().backend != "faiss flat"
        assert not list((index.folder / "ann").glob("*"))
        with _file_size_limit(30_000):
            index._maintenance._run()
    assert "0001.faiss cannot be written" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_locked_table_is_an_error_after_the_time_out(index: SearchIndex) -> None:
    with (
        closing(sqlite3.connect(index.folder / TABLE, isolation_level=None)) as other,
        SearchIndex.open(index.folder, writable=True, lock_timeout_s=0.02) as writer,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexBusyError, match="locked"):
            writer.add(new_items(unit_vectors(1)))
        other.execute("ROLLBACK")
        writer.add(new_items(unit_vectors(1)))


def test_a_second_writer_is_an_error_after_the_time_out(index: SearchIndex) -> None:
    with SearchIndex.open(index.folder, writable=True, lock_timeout_s=0.05) as writer:
        with (
            FileLock(index.folder / WRITE_LOCK),
            pytest.raises(IndexBusyError, match="another process has been writing"),
        ):
            writer.add(new_items(unit_vectors(1)))
        writer.add(new_items(unit_vectors(1)))
    with pytest.raises(DuplicateItemError):
        index.add(new_items(unit_vectors(1)))
