"""Approximate indexes find what exact search finds, through additions, deletions and compaction."""

import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from tests.serving.bundles import DIMENSION
from tests.serving.conftest import make_manifest, new_items, unit_vectors
from tests.waiting import PATIENCE_S, until

COUNT = 2000
APPROXIMATE = [AnnKind.HNSW, AnnKind.IVF_SQ8, AnnKind.IVF_PQ]


def _index(folder: Path, *, maintenance: bool = False, **options: object) -> SearchIndex:
    backend = BackendOptions.model_validate({"tail": 200, **options})
    return SearchIndex.create(folder, manifest=make_manifest(backend=backend), maintenance=maintenance)


def _recall(index: SearchIndex, vectors: dict[int, npt.NDArray[np.float32]], k: int = 10, **options: object) -> float:
    queries = np.stack(list(vectors.values())[:: len(vectors) // 40])
    queries = queries + 0.1 * np.random.default_rng(5).normal(size=queries.shape).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = index.search(queries, k, **options)  # type: ignore[arg-type]
    numbers = np.array(sorted(vectors))
    scores = queries.astype(np.float64) @ np.stack([vectors[number] for number in numbers]).astype(np.float64).T
    hits = 0
    for query, matches, own in zip(queries, found, scores, strict=True):
        expected = {f"item-{number}" for number in numbers[np.argsort(-own, kind="stable")[:k]]}
        assert len(matches) == k
        assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
        for match in matches:
            assert match.score == pytest.approx(float(vectors[int(match.item.id[5:])] @ query), abs=1e-6)
        hits += len(expected & {match.item.id for match in matches})
    return hits / (k * len(queries))


@pytest.mark.parametrize("structure", APPROXIMATE)
def test_an_approximate_index_follows_the_gallery(tmp_path: Path, structure: AnnKind) -> None:
    vectors = dict(enumerate(unit_vectors(COUNT + 500)))
    both = np.stack(list(vectors.values()))
    index = _index(tmp_path / "index", structure=structure, recall=0.95, flat_bytes=4 * DIMENSION * 400)
    index.add(new_items(both[:COUNT], labels=5))
    index.optimize(threads=1)
    here = {number: vectors[number] for number in range(COUNT)}
    assert index.stats().backend == f"faiss {structure}"
    assert _recall(index, here) >= 0.93
    labeled = {number: vector for number, vector in here.items() if number % 5 == 2}
    assert _recall(index, labeled, label="label-2") >= 0.9
    assert _recall(index, here, k=1000) == 1.0  # many results are searched exactly

    # Items of the tail, and of the copy that takes them in; a deleted item never comes back.
    index.add(new_items(both[COUNT:], start=COUNT, labels=5))
    here = dict(vectors)
    assert _recall(index, here) >= 0.93
    deleted = list(range(0, COUNT, 3)) + list(range(COUNT, COUNT + 100))
    index.delete([f"item-{number}" for number in deleted])
    for number in deleted:
        del here[number]
    assert _recall(index, here) >= 0.93
    index.optimize(threads=1)
    assert _recall(index, here) >= 0.93
    with SearchIndex.open(index.folder, maintenance=False) as reader:
        assert _recall(reader, here) >= 0.93

    index.compact(threads=1)
    assert index.stats().deleted == 0
    assert index.size == len(here)
    assert _recall(index, here) >= 0.93
    index.add(new_items(both[:1], start=0))
    assert index.search(both[:1], 1)[0][0].item.id == "item-0"
    with SearchIndex.open(index.folder, maintenance=False) as reader:
        assert reader.stats().backend == f"faiss {structure}"
        assert reader.ids(count=10_000) == index.ids(count=10_000)
        assert np.array_equal(reader.vector("item-1"), vectors[1])
        assert _recall(reader, here | {0: vectors[0]}) >= 0.93


def test_auto_is_exact_for_few_items_and_then_keeps_the_fastest_kind(tmp_path: Path) -> None:
    index = _index(tmp_path / "index", flat_bytes=4 * DIMENSION * 1500, recall=0.9)
    vectors = unit_vectors(COUNT)
    index.add(new_items(vectors[:1500]))
    index.optimize(threads=1)
    assert index.stats().backend == "faiss flat"
    index.add(new_items(vectors[1500:], start=1500))
    index.optimize(threads=1)
    record = json.loads((index.folder / "ann" / "0001.json").read_text(encoding="utf-8"))
    measured = record["measured"]
    assert {one["structure"] for one in measured} == {str(structure) for structure in APPROXIMATE}
    enough = [one for one in measured if min(one["recall_items"], one["recall_between"]) >= 0.9]
    assert record["p50_ms"] == min(one["p50_ms"] for one in enough)
    assert index.stats().backend == f"faiss {record['structure']}"
    assert (record["items"], record["covered"]) == (COUNT, COUNT)


def test_few_items_are_searched_exactly_whatever_kind_is_requested(tmp_path: Path) -> None:
    index = _index(tmp_path / "index", structure=AnnKind.IVF_PQ)
    index.add(new_items(unit_vectors(100)))
    index.optimize(threads=1)
    assert index.stats().backend == "faiss flat"
    index.delete(["item-3"])
    index.compact(threads=1)
    assert index.size == 99
    assert index.stats().deleted == 0


def test_a_damaged_approximate_index_is_not_searched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = _index(tmp_path / "index", structure=AnnKind.IVF_SQ8)
    vectors = dict(enumerate(unit_vectors(COUNT)))
    index.add(new_items(np.stack(list(vectors.values()))))
    index.optimize(threads=1)
    index.close()
    damages: list[Callable[[Path], object]] = [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.with_suffix(".json").write_text("{}"),
    ]
    for number, damage in enumerate(damages):
        folder = tmp_path / f"damaged-{number}"
        shutil.copytree(index.folder, folder)
        damage(folder / "ann" / "0001.faiss")
        caplog.clear()
        with caplog.at_level(logging.WARNING), SearchIndex.open(folder, writable=True, maintenance=False) as again:
            assert "searches are exact" in caplog.text
            assert again.stats().backend == "faiss flat"
            assert _recall(again, vectors) == 1.0
            if number == 0:
                again.optimize(threads=1)
                assert again.stats().backend == "faiss ivf-sq8"
                with SearchIndex.open(folder, maintenance=False) as reader:
                    assert reader.stats().backend == "faiss ivf-sq8"


def test_maintenance_builds_an_index_in_the_background(tmp_path: Path) -> None:
    index = _index(tmp_path / "index", maintenance=True, structure=AnnKind.IVF_SQ8)
    vectors = unit_vectors(COUNT)
    for start in range(0, COUNT, 500):
        index.add(new_items(vectors[start : start + 500], start=start))
    until(lambda: (index.folder / "ann").exists() and index.stats().backend != "faiss flat")
    assert index.search(vectors[:1], 1)[0][0].item.id == "item-0"


@pytest.mark.parametrize("structure", [AnnKind.FLAT, AnnKind.IVF_SQ8, AnnKind.HNSW])
def test_searches_never_fail_during_changes(tmp_path: Path, structure: AnnKind) -> None:
    """Items that stay are found by searches that run while others are added and deleted, and vectors are moved."""
    index = _index(tmp_path / "index", structure=structure)
    vectors = unit_vectors(2000)
    index.add(new_items(vectors[:1200], labels=3))
    index.optimize(threads=1)
    over, failures, searches = threading.Event(), list[object](), [0, 0]

    def search(number: int) -> None:
        generator = np.random.default_rng(number)
        while not over.is_set():
            chosen = generator.integers(0, 400, 3)
            try:
                found = index.search(vectors[chosen], 5)
                found += index.search(vectors[chosen[:1]], 5, label=f"label-{chosen[0] % 3}")
                index.item(f"item-{chosen[0]}")
            except Exception as error:
                failures.append(error)
                return
            expected = [f"item-{one}" for one in [*chosen, chosen[0]]]
            if [matches[0].item.id for matches in found] != expected or any(len(one) != 5 for one in found):
                failures.append(found)
            searches[number] += 1

    def both_search() -> None:
        """Wait until both have searched, or the changes might be over before."""
        before = list(searches)
        until(lambda: failures or all(now > then for now, then in zip(searches, before, strict=True)))

    threads = [threading.Thread(target=search, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for step in range(4):
        start = 1200 + 200 * step
        index.add(new_items(vectors[start : start + 200], start=start, labels=3))
        index.delete([f"item-{number}" for number in range(400 + 150 * step, 400 + 150 * step + 150)])
        index.compact(threads=1) if step == 2 else index.optimize(threads=1)
        both_search()
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert min(searches) >= 4
    assert index.size == 1400


def test_a_search_works_after_another_library_has_patched_faiss() -> None:
    """pytorch-metric-learning does so at import; in a process of its own, since it cannot be undone."""
    code = (
        "import faiss.contrib.torch_utils, faiss, numpy as np\n"
        "from hardrank.serving.ann.faiss_index import FaissIndex, SearchEffort, AnnKind\n"
        "vectors = np.eye(8, dtype=np.float32)\n"
        "index = faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT)\n"
        "index.add(vectors)\n"
        "held = FaissIndex(kind=AnnKind.HNSW, index=index, covered=8, effort=SearchEffort(width=16, fetch=4))\n"
        "assert (held.search(vectors, 1)[:, 0] == np.arange(8)).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
