"""The engine computes the same embeddings as the PyTorch network, and its errors name the cause."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.models.bundle import BundleError, load_embedder
from hardrank.models.cores import THREADS_VARIABLE, usable_cores
from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.preprocessing import to_unit
from hardrank.serving.engine import Device, Engine, EngineError
from tests.serving.bundles import DIMENSION
from tests.serving.pictures import write_picture


def test_embeddings_equal_those_of_the_network(engine: Engine, benign_bundle: Path) -> None:
    pixels = np.random.default_rng(0).random((5, *engine.input_shape), dtype=np.float32)
    with torch.no_grad():
        expected = load_embedder(benign_bundle)(torch.from_numpy(pixels)).numpy()
    found = engine.embed(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(engine.embed(pixels[:1]), found[:1], atol=1e-5)
    assert (engine.dimension, engine.name, engine.device) == (DIMENSION, "tiny-benign", Device.CPU)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_bytes_are_pixels_too(benign_bundle: Path, side_by_side: bool) -> None:
    engine = Engine(benign_bundle, threads=2, side_by_side=side_by_side)
    pixels = np.random.default_rng(0).integers(0, 256, (9, *engine.input_shape), dtype=np.uint8)
    np.testing.assert_array_equal(engine.embed(pixels), engine.embed(to_unit(pixels)))


def test_embed_is_thread_safe(engine: Engine) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, *engine.input_shape), dtype=np.uint8)
    alone = engine.embed(pixels)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda row: engine.embed(pixels[row : row + 1])[0], list(range(16)) * 4))
    np.testing.assert_allclose(np.stack(together), np.tile(alone, (4, 1)), atol=1e-5)


def test_threads_side_by_side_compute_the_same(engine: Engine, benign_bundle: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (29, *engine.input_shape), dtype=np.uint8)
    alone = engine.embed(pixels)
    parallel = Engine(benign_bundle, threads=3, side_by_side=True)
    parts = [pixels[start : start + size] for start, size in ((0, 8), (8, 3), (11, 9), (20, 1), (21, 8))]
    with ThreadPoolExecutor(3) as pool:
        found = np.concatenate(list(pool.map(parallel.embed_in_one_thread, parts)))
    np.testing.assert_allclose(found, alone, atol=1e-5)
    np.testing.assert_allclose(parallel.embed(pixels), alone, atol=1e-5)


def test_one_thread_needs_a_network_of_its_own(engine: Engine) -> None:
    assert not engine.side_by_side
    with pytest.raises(EngineError, match="use embed"):
        engine.embed_in_one_thread(np.zeros((1, *engine.input_shape), dtype=np.float32))


def test_prepare_decodes_and_crops(engine: Engine, tmp_path: Path) -> None:
    pixels = engine.prepare(write_picture(tmp_path / "a.jpg", seed=0).read_bytes())
    assert pixels.shape == engine.input_shape
    assert 0 <= pixels.min() <= pixels.max() <= 1
    with pytest.raises(UndecodableImageError):
        engine.prepare(b"no image")


@pytest.mark.parametrize("shape", [(3, 32, 32), (0, 3, 32, 32), (1, 3, 31, 32), (1, 1, 32, 32), (1, 3, 224, 224)])
def test_rejects_pixels_of_another_shape(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"tiny-benign needs \(N,3,32,32\)"):
        engine.embed(np.zeros(shape, dtype=np.float32))


def test_errors_name_what_cannot_be_loaded(benign_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        Engine(tmp_path)
    with pytest.raises(EngineError, match="threads is -1"):
        Engine(benign_bundle, threads=-1)
    damaged = tmp_path / "tiny-benign"
    shutil.copytree(benign_bundle, damaged)
    (damaged / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        Engine(damaged)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_an_unavailable_gpu_is_named(benign_bundle: Path) -> None:
    with pytest.raises(EngineError, match="CUDA"):
        Engine(benign_bundle, device=Device.CUDA)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_zero_threads_means_one_per_usable_core(benign_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        bound = Engine(benign_bundle, device=Device.CPU).threads
    finally:
        os.sched_setaffinity(0, allowed)
    assert bound == 1
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert Engine(benign_bundle, device=Device.CPU).threads == 3
    assert Engine(benign_bundle, threads=2, device=Device.CPU).threads == 2


def _bound_threads() -> dict[str, set[int]]:
    """Threads of this process that stay on some of its cores, and which."""
    allowed = os.sched_getaffinity(0)
    threads = [path.name for path in Path("/proc/self/task").iterdir()]
    bound = {thread: os.sched_getaffinity(int(thread)) for thread in threads}
    return {thread: cores for thread, cores in bound.items() if cores != allowed}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are not listed here")
@pytest.mark.skipif(usable_cores() < 2, reason="one core has one thread")
def test_threads_that_take_all_cores_do_not_share_one(benign_bundle: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    before = _bound_threads()
    engine = Engine(benign_bundle, threads=len(allowed), device=Device.CPU)
    others = [cores for thread, cores in _bound_threads().items() if thread not in before]
    assert sorted(map(sorted, others)) == [[core] for core in allowed[1:]]
    fewer = Engine(benign_bundle, threads=len(allowed) + 1, device=Device.CPU)
    assert len(_bound_threads()) == len(before) + len(others)
    assert engine.threads + 1 == fewer.threads


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are not listed here")
@pytest.mark.skipif(usable_cores() < 2, reason="one core has one thread")
def test_the_caller_computes_on_the_core_that_the_other_threads_leave_free(
    benign_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.sched_getaffinity(0)
    engine = Engine(benign_bundle, threads=len(allowed), device=Device.CPU)
    fewer = Engine(benign_bundle, threads=len(allowed) + 1, device=Device.CPU)
    cores: list[set[int]] = []
    run = Engine._run

    def observed(self: Engine, session: object, pixels: np.ndarray) -> np.ndarray:
        cores.append(os.sched_getaffinity(0))
        return run(self, session, pixels)

    monkeypatch.setattr(Engine, "_run", observed)
    pixels = np.zeros((1, *engine.input_shape), dtype=np.uint8)
    engine.embed(pixels)
    assert cores == [{min(allowed)}]
    assert os.sched_getaffinity(0) == allowed
    fewer.embed(pixels)
    assert cores[1:] == [allowed]


def test_engine_and_index_do_not_import_torch(benign_bundle: Path) -> None:
    code = (
        "import sys, hardrank.serving.index.search_index, hardrank.serving.ingest.indexer\n"
        "import hardrank.serving.ann.faiss_backend, hardrank.serving.ann.gpu_backend\n"
        f"from hardrank.serving.engine import Engine; from pathlib import Path; Engine(Path({str(benign_bundle)!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
