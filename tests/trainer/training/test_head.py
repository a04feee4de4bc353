"""The head of a pretrained start centers the features and keeps their cosines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.embedder import Architecture, build_embedder
from hardrank.models.preprocessing import Preprocessing, prepare
from hardrank.trainer.metric.distances import recall_at_1
from hardrank.trainer.training.head import projection


def cosines(vectors: Tensor) -> Tensor:
    unit = F.normalize(vectors.double(), dim=1)
    return unit @ unit.T


def recall(vectors: Tensor, labels: Tensor) -> float:
    unit, own = F.normalize(vectors, dim=1), torch.arange(len(labels))
    return float(recall_at_1(unit, unit, labels, own, labels).float().mean())


def apply(features: Tensor, dimension: int) -> Tensor:
    weight, bias = projection(features, dimension)
    assert weight.shape == (dimension, features.shape[1])
    return features @ weight.T + bias


def of_length_one(features: Tensor) -> Tensor:
    return F.normalize(features, dim=1)


@pytest.mark.parametrize("dimension", [16, 40])
def test_enough_dimensions_keep_the_cosines_of_centered_features(dimension: int) -> None:
    torch.manual_seed(0)
    features = of_length_one(torch.randn(30, 16) + 1)
    centered = features - features.mean(dim=0)
    torch.testing.assert_close(cosines(apply(features, dimension)), cosines(centered), rtol=0, atol=1e-6)


def test_fewer_dimensions_keep_the_cosines_of_features_of_low_rank() -> None:
    torch.manual_seed(0)
    features = of_length_one(torch.rand(50, 6) @ torch.randn(6, 32))
    centered = features - features.mean(dim=0)
    torch.testing.assert_close(cosines(apply(features, 6)), cosines(centered), rtol=0, atol=1e-5)


def test_the_first_directions_are_those_of_a_singular_value_decomposition() -> None:
    torch.manual_seed(0)
    features = of_length_one(torch.randn(200, 24) * torch.linspace(3, 0.1, 24))
    weight, _ = projection(features, 8)
    _, _, expected = torch.linalg.svd((features - features.mean(dim=0)).double(), full_matrices=False)
    torch.testing.assert_close((weight.double() @ expected[:8].T).abs(), torch.eye(8).double(), rtol=0, atol=1e-4)


def test_the_length_of_features_does_not_matter() -> None:
    torch.manual_seed(0)
    features = of_length_one(torch.randn(30, 16) + 1)
    torch.testing.assert_close(cosines(apply(7 * features, 8)), cosines(apply(features, 8)), rtol=0, atol=1e-5)


def test_few_features_give_orthonormal_rows() -> None:
    torch.manual_seed(0)
    weight, _ = projection(torch.randn(3, 20), 8)
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def photographs(shared_dir: Path) -> tuple[Tensor, Tensor]:
    """Features of photographs in a pretrained network, and their labels."""
    classes = sorted(path for path in (shared_dir / "data" / "caltech101").glob("*") if path.is_dir())[40:]
    paths = [path for folder in classes for path in sorted(folder.glob("*.jpg"))[:16:2]]
    if not paths:
        pytest.skip("the photographs are absent")
    labels = torch.from_numpy(np.unique([path.parent.name for path in paths], return_inverse=True)[1])
    architecture = Architecture(backbone="timm/efficientnet_lite0", image_size=96)
    embedder = build_embedder(architecture, imagenet=True).eval()
    sizes = Preprocessing(resize=109, crop=96)
    images = torch.from_numpy(np.stack([prepare(path.read_bytes(), sizes) for path in paths]))
    with torch.no_grad():
        return torch.cat([embedder.features(part) for part in images.split(64)]), labels


@pytest.mark.parametrize("dimension", [512, 1280])
def test_recall_of_a_pretrained_start_is_that_of_its_features(
    photographs: tuple[Tensor, Tensor], dimension: int
) -> None:
    features, labels = photographs
    embeddings = F.normalize(apply(features, dimension), dim=1)
    assert recall(features, labels) > 0.5
    assert recall(embeddings, labels) >= recall(features, labels) - 0.02
