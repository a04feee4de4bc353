"""Milvus Lite returns the results that FAISS returns, and recovers after a crash."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.ann.milvus_backend import MilvusBackend
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.errors import BackendError
from hardrank.serving.store.item_table import TableState
from hardrank.serving.store.manifest import AnnKind, BackendKind, BackendOptions, IndexManifest
from tests.serving.conftest import make_manifest, new_items, unit_vectors

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

MILVUS = BackendOptions(kind=BackendKind.MILVUS, flat_bytes=0)
"""Milvus searches for labels too, however few items they have."""


def _index(folder: Path, options: BackendOptions = MILVUS) -> SearchIndex:
    return SearchIndex.create(folder, manifest=make_manifest(backend=options), maintenance=False)


def _answers(
    index: SearchIndex, queries: npt.NDArray[np.float32], k: int, **options: Any
) -> list[list[tuple[str, float]]]:
    return [[(match.item.id, match.score) for match in matches] for matches in index.search(queries, k, **options)]


def _assert_same(one: SearchIndex, other: SearchIndex, *, label: str | None = "la\"be'l-1") -> None:
    queries = np.concatenate([unit_vectors(5, seed=3), one.vector(one.ids()[0])[None]])
    for k in (1, 10, one.size):
        assert _answers(one, queries, k) == _answers(other, queries, k)
    exclude = [None] * 5 + one.ids(count=1)
    assert _answers(one, queries, 7, exclude=exclude) == _answers(other, queries, 7, exclude=exclude)
    if label is not None:
        assert _answers(one, queries, 20, label=label) == _answers(other, queries, 20, label=label)


def test_milvus_and_faiss_return_the_same_results(tmp_path: Path) -> None:
    vectors = unit_vectors(400)
    items = [
        replace(item, label=None if number % 4 == 0 else f"la\"be'l-{number % 4}")
        for number, item in enumerate(new_items(vectors))
    ]
    with _index(tmp_path / "faiss", BackendOptions()) as flat, _index(tmp_path / "milvus") as milvus:
        for index in (flat, milvus):
            index.add(items[:250])
            index.add(items[250:])
        assert milvus.stats().backend == "milvus"
        _assert_same(flat, milvus)
        for index in (flat, milvus):
            index.delete([f"item-{number}" for number in range(0, 400, 5)])
            index.add(new_items(unit_vectors(10, seed=9), start=11), replace=True)
        _assert_same(flat, milvus)
        for index in (flat, milvus):
            index.compact(threads=1)
        _assert_same(flat, milvus)
    with (
        SearchIndex.open(tmp_path / "faiss", maintenance=False) as flat,
        SearchIndex.open(tmp_path / "milvus", writable=True, maintenance=False) as milvus,
    ):
        _assert_same(flat, milvus)


@pytest.mark.parametrize("structure", [AnnKind.FLAT, AnnKind.HNSW, AnnKind.IVF_SQ8])
def test_milvus_finds_items_with_each_kind_of_index(tmp_path: Path, structure: AnnKind) -> None:
    with _index(tmp_path / "milvus", BackendOptions(kind=BackendKind.MILVUS, structure=structure)) as index:
        vectors = unit_vectors(300)
        index.add(new_items(vectors))
        found = index.search(vectors[:20], 1)
        assert [matches[0].item.id for matches in found] == [f"item-{number}" for number in range(20)]


class _Opener:
    """Opens backends and keeps the last one, to look into Milvus and to simulate crashes."""

    backend: MilvusBackend

    def __call__(self, folder: Path, manifest: IndexManifest, state: TableState, writable: bool) -> MilvusBackend:
        self.backend = MilvusBackend.open(folder, manifest, writable=writable)
        return self.backend


def test_vectors_left_by_a_crash_are_skipped_and_then_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(60)
    opener = _Opener()
    with (
        _index(tmp_path / "faiss", BackendOptions()) as flat,
        SearchIndex.create(
            tmp_path / "milvus", manifest=make_manifest(backend=MILVUS), maintenance=False, open_backend=opener
        ) as milvus,
    ):
        flat.add(new_items(vectors[:50]))
        milvus.add(new_items(vectors[:50]))
        # As if killed between Milvus and the commit of an addition, and between the commit of a deletion and Milvus.
        opener.backend.on_add(np.arange(50, 60), vectors[50:], [None] * 10)
        deleted = [f"item-{number}" for number in range(5)]
        with monkeypatch.context() as patch:
            patch.setattr(opener.backend, "on_delete", lambda rows: None)
            milvus.delete(deleted)
        flat.delete(deleted)
        _assert_same(flat, milvus, label=None)
        assert sorted(opener.backend.stored_rows(10_000)) == list(range(60))
    with (
        SearchIndex.open(tmp_path / "faiss", writable=True) as flat,
        SearchIndex.open(tmp_path / "milvus", writable=True, maintenance=False, open_backend=opener) as milvus,
    ):
        milvus.optimize()
        assert sorted(opener.backend.stored_rows(50)) == list(range(5, 50))
        for index in (flat, milvus):
            index.add(new_items(unit_vectors(10, seed=4), start=100))
        _assert_same(flat, milvus, label=None)
        # A Milvus that lost everything is filled again from the vector file.
        opener.backend.on_delete(np.arange(60))
        assert list(opener.backend.stored_rows(10_000)) == []
        milvus.compact()
        _assert_same(flat, milvus, label=None)
        assert len(list(opener.backend.stored_rows(10_000))) == milvus.size


def test_small_labels_and_many_results_are_compared_exactly(tmp_path: Path) -> None:
    """Milvus is not asked, whose approximate search would miss some of them."""
    items = new_items(unit_vectors(300), labels=30)
    opener = _Opener()
    manifest = make_manifest(backend=BackendOptions(kind=BackendKind.MILVUS))
    with (
        _index(tmp_path / "faiss", BackendOptions()) as flat,
        SearchIndex.create(tmp_path / "milvus", manifest=manifest, maintenance=False, open_backend=opener) as milvus,
    ):
        for index in (flat, milvus):
            index.add(items)
        opener.backend.close()
        queries = unit_vectors(5, seed=3)
        for k, label in ((5, "label-7"), (10, "label-7"), (16, None), (300, None)):
            assert _answers(milvus, queries, k, label=label) == _answers(flat, queries, k, label=label)


def test_indexes_in_one_milvus_do_not_mix(tmp_path: Path) -> None:
    options = BackendOptions(kind=BackendKind.MILVUS, uri=str(tmp_path / "shared.db"))
    with _index(tmp_path / "one", options) as first, _index(tmp_path / "two", options) as second:
        first.add(new_items(unit_vectors(5)))
        second.add(new_items(unit_vectors(7, seed=1), start=50))
        query = unit_vectors(1)
        assert {match.item.id for match in first.search(query, 5)[0]} == {f"item-{n}" for n in range(5)}
        assert {match.item.id for match in second.search(query, 7)[0]} == {f"item-{n}" for n in range(50, 57)}


def test_a_missing_token_or_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = BackendOptions(kind=BackendKind.MILVUS, uri="http://127.0.0.1:9", token_variable="NO_SUCH_TOKEN")
    with pytest.raises(BackendError, match="NO_SUCH_TOKEN is empty"):
        _index(tmp_path / "token", secret)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(BackendError, match=r"pip install 'hardrank\[milvus\]'"):
        _index(tmp_path / "library")


@pytest.mark.slow
def test_an_unreachable_cluster_is_named(tmp_path: Path) -> None:
    nowhere = BackendOptions(kind=BackendKind.MILVUS, uri="http://127.0.0.1:9")
    with pytest.raises(BackendError, match="Milvus at http"):
        _index(tmp_path / "cluster", nowhere)
