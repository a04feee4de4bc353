"""The GPU's part, with an index of the processor in its place: it answers as exact search does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import pytest

from hardrank.serving.ann import registry
from hardrank.serving.ann.gpu_backend import GpuBackend
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.manifest import BackendOptions
from tests.serving.conftest import make_manifest, new_items, unit_vectors


def _full(dimension: int) -> Any:
    raise RuntimeError("cudaMalloc failed: out of memory")


def _index(folder: Path, patch: pytest.MonkeyPatch, make: Callable[[int], Any]) -> SearchIndex:
    patch.setattr("hardrank.serving.ann.gpu_backend.on_gpu", lambda within, options: GpuBackend(within, options, make))
    assert registry  # imports on_gpu when it is called
    return SearchIndex.create(folder, manifest=make_manifest(backend=BackendOptions(tail=50)), maintenance=False)


def test_a_gpu_gives_the_answers_of_exact_search(
    index: SearchIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = unit_vectors(2000), unit_vectors(9, seed=1)
    gpu = _index(tmp_path / "gpu", monkeypatch, faiss.IndexFlatIP)

    def assert_same() -> None:
        for k in (1, 10, 300):
            assert gpu.search(queries, k) == index.search(queries, k)
        assert gpu.search(queries, 5, label="label-1") == index.search(queries, 5, label="label-1")

    for one in (index, gpu):
        one.add(new_items(vectors[:1500], labels=3))
    gpu.optimize()
    assert gpu.stats().backend == "faiss flat on GPU"
    assert_same()
    for one in (index, gpu):
        one.add(new_items(vectors[1500:], start=1500, labels=3))
        one.delete([f"item-{number}" for number in range(0, 2000, 7)])
    assert_same()
    gpu.optimize()
    assert gpu.stats().parameters == {"vectors": 2000 - 286}
    assert_same()
    for one in (index, gpu):
        one.compact()
    assert gpu.stats().backend == "faiss flat on GPU"
    assert_same()


def test_vectors_that_do_not_fit_are_searched_as_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = _index(tmp_path / "gpu", monkeypatch, _full)
    vectors = unit_vectors(1200)
    index.add(new_items(vectors))
    index.optimize(threads=1)
    assert "out of memory" in caplog.text
    assert index.stats().backend == "faiss flat"
    assert index.search(vectors[:1], 1)[0][0].item.id == "item-0"
