"""Fixtures for serving: bundles of tiny networks, engines, and indexes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hardrank.models.card import ArchitectureEntry, PreprocessingEntry
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import BackendOptions, IndexManifest
from tests.serving.bundles import DIMENSION, write_bundle

MakeIndex = Callable[..., SearchIndex]


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that runs `async` tests."""
    return "asyncio"


@pytest.fixture(scope="session")
def benign_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle called tiny-benign: 32 px input, 16-dimensional embeddings."""
    return write_bundle(tmp_path_factory.mktemp("zoo") / "tiny-benign", seed=0)


@pytest.fixture(scope="session")
def robust_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another network of the same shape, called tiny-robust."""
    return write_bundle(tmp_path_factory.mktemp("zoo") / "tiny-robust", seed=1, defense="HM[S,g_LGA]&ICS")


@pytest.fixture(scope="session")
def engine(benign_bundle: Path) -> Engine:
    return Engine(benign_bundle, threads=1, device=Device.CPU)


@pytest.fixture(scope="session")
def robust_engine(robust_bundle: Path) -> Engine:
    return Engine(robust_bundle, threads=1, device=Device.CPU)


def unit_vectors(count: int, dimension: int = DIMENSION, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Vectors (count,dimension) of norm 1, in clusters of about ten."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(max(1, count // 10), dimension))
    vectors = centers[generator.integers(0, len(centers), count)] + 0.5 * generator.normal(size=(count, dimension))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def new_items(vectors: npt.NDArray[np.float32], *, start: int = 0, labels: int = 0) -> list[NewItem]:
    """Items called item-N, with labels label-0 … in turn where `labels` is not 0."""
    return [
        NewItem(id=f"item-{number}", vector=vector, label=f"label-{number % labels}" if labels else None)
        for number, vector in enumerate(vectors, start=start)
    ]


def make_manifest(
    *, dimension: int = DIMENSION, model_sha256: str = "0" * 64, backend: BackendOptions | None = None
) -> IndexManifest:
    """What an index is, of a model that does not matter."""
    return IndexManifest(
        model="tiny-benign",
        model_sha256=model_sha256,
        architecture=ArchitectureEntry(backbone="small-resnet", dimension=dimension, image_size=32),
        preprocessing=PreprocessingEntry(resize=36, crop=32),
        backend=backend or BackendOptions(),
    )


@pytest.fixture
def index(tmp_path: Path) -> SearchIndex:
    """An empty, writable index of vectors with 16 coordinates."""
    return SearchIndex.create(tmp_path / "index", manifest=make_manifest())
