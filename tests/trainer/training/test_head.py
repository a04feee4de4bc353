"""The head of a pretrained start keeps the cosines of the features."""

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


@pytest.mark.parametrize("dimension", [16, 40])
def test_enough_dimensions_keep_all_cosines(dimension: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(30, 16)
    weight = projection(features, dimension)
    assert weight.shape == (dimension, 16)
    torch.testing.assert_close(cosines(features @ weight.T), cosines(features), rtol=0, atol=1e-6)


def test_fewer_dimensions_keep_the_cosines_of_features_of_low_rank() -> None:
    torch.manual_seed(0)
    features = torch.rand(50, 6) @ torch.randn(6, 32)
    weight = projection(features, 6)
    torch.testing.assert_close(cosines(features @ weight.T), cosines(features), rtol=0, atol=1e-5)
    ranks = [cosines(values).argsort(dim=1) for values in (features, features @ weight.T)]
    assert (ranks[0] == ranks[1]).double().mean() > 0.99


def test_the_principal_directions_lose_least() -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 24) * torch.linspace(3, 0.1, 24)
    other = torch.linalg.qr(torch.randn(24, 8))[0].T
    errors = [(cosines(features @ w.T) - cosines(features)).square().mean() for w in (projection(features, 8), other)]
    assert errors[0] < errors[1]


def test_few_features_give_orthonormal_rows() -> None:
    torch.manual_seed(0)
    weight = projection(torch.randn(3, 20), 8)
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dimension", [512, 1280])
def test_recall_of_a_pretrained_start_is_that_of_its_features(shared_dir: Path, dimension: int) -> None:
    classes = sorted(path for path in (shared_dir / "data" / "caltech101").glob("*") if path.is_dir())[40:]
    paths = [path for folder in classes for path in sorted(folder.glob("*.jpg"))[:16:2]]
    if not paths:
        pytest.skip("the photographs are absent")
    labels = torch.from_numpy(np.unique([path.parent.name for path in paths], return_inverse=True)[1])
    architecture = Architecture(backbone="timm/efficientnet_lite0", dimension=dimension, image_size=96)
    embedder = build_embedder(architecture, imagenet=True).eval()
    sizes = Preprocessing(resize=109, crop=96)
    images = torch.from_numpy(np.stack([prepare(path.read_bytes(), sizes) for path in paths]))
    with torch.no_grad():
        features = torch.cat([embedder.features(part) for part in images.split(64)])
        embedder.head.weight.copy_(projection(features, dimension))
        embedder.head.bias.zero_()
        embeddings = embedder.project(features)
    assert recall(features, labels) > 0.5
    assert abs(recall(embeddings, labels) - recall(features, labels)) <= 0.005
