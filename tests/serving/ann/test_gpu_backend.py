"""Search on a GPU finds what exact search finds; without a GPU, a CPU index stands in for the GPU's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import pytest

from hardrank.serving.ann.faiss_backend import FaissBackend
from hardrank.serving.ann.gpu_backend import GpuBackend, gpu_index_maker, with_gpu
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.manifest import AnnKind, BackendOptions
from tests.serving.conftest import make_manifest, new_items, unit_vectors

OPTIONS = BackendOptions(tail=50)


def _out_of_memory(dimension: int) -> Any:
    raise RuntimeError("cudaMalloc failed: out of memory")


def _create(folder: Path, make_index: Callable[[int], Any]) -> SearchIndex:
    return SearchIndex.create(
        folder,
        manifest=make_manifest(backend=OPTIONS),
        maintenance=False,
        open_backend=lambda folder, manifest, state, writable: with_gpu(
            FaissBackend.load(folder, manifest.backend, state), manifest.backend, make_index=make_index
        ),
    )


@pytest.mark.parametrize("structure", AnnKind)
def test_a_gpu_is_used_unless_an_approximate_index_is_requested(structure: AnnKind) -> None:
    options = BackendOptions(structure=structure)
    fallback = FaissBackend(options)
    backend = with_gpu(fallback, options, make_index=faiss.IndexFlatIP)
    expected = GpuBackend if structure in {AnnKind.AUTO, AnnKind.FLAT} else FaissBackend
    assert type(backend) is expected


@pytest.mark.skipif(gpu_index_maker() is not None, reason="FAISS finds a GPU")
def test_without_a_gpu_the_cpu_searches() -> None:
    fallback = FaissBackend(OPTIONS)
    assert with_gpu(fallback, OPTIONS) is fallback


def test_faiss_without_gpu_support_is_searched_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    assert gpu_index_maker() is None


@pytest.mark.parametrize(
    "make_index",
    [
        pytest.param(lambda: faiss.IndexFlatIP, id="cpu-stand-in"),
        pytest.param(
            gpu_index_maker,
            id="gpu",
            marks=pytest.mark.skipif(gpu_index_maker() is None, reason="FAISS finds no GPU"),
        ),
    ],
)
def test_a_gpu_returns_the_results_of_exact_search(
    index: SearchIndex, tmp_path: Path, make_index: Callable[[], Callable[[int], Any]]
) -> None:
    vectors, queries = unit_vectors(2000), unit_vectors(9, seed=1)
    gpu = _create(tmp_path / "gpu", make_index())

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


def test_vectors_that_do_not_fit_are_searched_without_the_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = _create(tmp_path / "gpu", _out_of_memory)
    vectors = unit_vectors(1200)
    index.add(new_items(vectors))
    index.optimize(threads=1)
    assert "out of memory" in caplog.text
    assert index.stats().backend == "faiss flat"
    assert index.search(vectors[:1], 1)[0][0].item.id == "item-0"
