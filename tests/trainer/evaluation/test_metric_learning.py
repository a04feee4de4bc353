"""Retrieval metrics equal those of pytorch-metric-learning, where it has them; docs/metrics.md says where not."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.evaluation.retrieval import INITIALIZATIONS, evaluate

pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

LARGE = 1100
"""Images of the large class."""


def classes(sizes: list[int], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings on the sphere around the center of each class, shuffled; labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centers = torch.randn(len(sizes), 16, generator=generator)[labels]
    embeddings = F.normalize(centers + 1.5 * torch.randn(len(labels), 16, generator=generator), dim=1)
    order = torch.randperm(len(labels), generator=generator)
    return embeddings[order], labels[order]


def theirs(embeddings: Tensor, labels: Tensor, *, k: Any, clusters: np.ndarray | None = None) -> dict[str, float]:
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision", "mean_average_precision_at_r")
        + (() if clusters is None else ("NMI",)),
        k=k,
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False), batch_size=256),
        kmeans_func=lambda points, count: torch.from_numpy(clusters),
    )
    found: dict[str, float] = calculator.get_accuracy(embeddings, labels)
    return found


@pytest.mark.parametrize(
    "sizes", [[20] * 10, [2, 3, 40, 7, 90], [1, 1, 5, 30], [LARGE, 60, 3]], ids=["equal", "unequal", "alone", "large"]
)
def test_metrics_equal_those_of_pytorch_metric_learning(sizes: list[int]) -> None:
    embeddings, labels = classes(sizes)
    mine, other = evaluate(embeddings, labels, nmi=False), theirs(embeddings, labels, k=None)
    assert mine.recall_at_1 == pytest.approx(other["precision_at_1"], abs=1e-9)
    assert mine.mean_ap == pytest.approx(other["mean_average_precision"], abs=1e-5)
    assert mine.map_at_r == pytest.approx(other["mean_average_precision_at_r"], abs=1e-5)
    at_r = theirs(embeddings, labels, k="max_bin_count")["mean_average_precision_at_r"]
    assert mine.map_at_r == pytest.approx(at_r, abs=1e-5)


def test_a_class_larger_than_k_makes_their_values_smaller() -> None:
    """As the page says: PML divides by R whatever k is."""
    embeddings, labels = classes([LARGE, 60, 3])
    mine, other = evaluate(embeddings, labels, nmi=False), theirs(embeddings, labels, k=1023)
    assert other["mean_average_precision"] < mine.mean_ap - 1e-3
    assert other["precision_at_1"] == pytest.approx(mine.recall_at_1, abs=1e-9)


def test_nmi_is_theirs_for_the_same_clusters() -> None:
    embeddings, labels = classes([20] * 10)
    kmeans = KMeans(10, n_init=INITIALIZATIONS, max_iter=100, random_state=0)
    other = theirs(embeddings, labels, k=1, clusters=kmeans.fit_predict(embeddings.double().numpy()))
    assert evaluate(embeddings, labels).nmi == pytest.approx(other["NMI"], abs=1e-9)


def test_copies_of_an_image_are_found_in_both() -> None:
    embeddings, labels = classes([10, 10])
    embeddings, labels = torch.cat([embeddings, embeddings[:4]]), torch.cat([labels, labels[:4]])
    mine, other = evaluate(embeddings, labels, nmi=False), theirs(embeddings, labels, k=None)
    assert mine.recall_at_1 == pytest.approx(other["precision_at_1"], abs=1e-9)
    assert mine.mean_ap == pytest.approx(other["mean_average_precision"], abs=1e-5)
