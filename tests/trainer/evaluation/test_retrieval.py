"""Retrieval metrics against naive loops, a second library, and odd cases."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import average_precision_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.evaluation import retrieval
from hardrank.trainer.evaluation.retrieval import cluster_nmi, evaluate
from hardrank.trainer.metric import distances
from hardrank.trainer.metric.distances import RetrievalError


def sphere(count: int, dimension: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dimension, generator=generator, dtype=torch.float64), dim=1)


def naive(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    figures: dict[str, list[float]] = {"r1": [], "r2": [], "ap": [], "apr": []}
    for q in range(len(embeddings)):
        others = [x for x in range(len(embeddings)) if x != q]
        others.sort(key=lambda x: (embeddings[q] - embeddings[x]).norm().item())
        hits = [int(labels[x] == labels[q]) for x in others]
        total = sum(hits)
        if total == 0:
            continue
        precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
        figures["r1"].append(hits[0])
        figures["r2"].append(max(hits[:2]))
        figures["ap"].append(sum(p for p, h in zip(precision, hits, strict=True) if h) / total)
        within = zip(precision[:total], hits[:total], strict=True)
        figures["apr"].append(sum(p for p, h in within if h) / total)
    return {name: float(np.mean(values)) for name, values in figures.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 22])
def test_equals_the_naive_loop(dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "CHUNK_ELEMENTS", chunk)
    embeddings = sphere(40)
    labels = torch.tensor([i % 7 for i in range(39)] + [99])  # the last is alone in its class
    expected = naive(embeddings, labels)
    found = evaluate(embeddings.to(dtype), labels, nmi=False)
    assert found.queries == 39
    assert found.without_match == 1
    assert found.recall_at_1 == pytest.approx(expected["r1"], abs=1e-9)
    assert found.recall_at_2 == pytest.approx(expected["r2"], abs=1e-9)
    assert found.mean_ap == pytest.approx(expected["ap"], abs=1e-6)
    assert found.map_at_r == pytest.approx(expected["apr"], abs=1e-6)


def test_average_precision_agrees_with_scikit_learn() -> None:
    embeddings, labels = sphere(60, seed=3), torch.arange(60) % 4
    cosine = embeddings @ embeddings.T
    expected = []
    for q in range(60):
        keep = torch.arange(60) != q
        expected.append(average_precision_score(labels[keep].eq(labels[q]).numpy(), cosine[q, keep].numpy()))
    assert evaluate(embeddings, labels, nmi=False).mean_ap == pytest.approx(np.mean(expected), abs=1e-6)


def test_perfect_clusters_score_one() -> None:
    labels = torch.arange(30) % 3
    embeddings = F.normalize(F.one_hot(labels, 8).double() + 0.01 * sphere(30), dim=1)
    found = evaluate(embeddings, labels)
    assert (found.recall_at_1, found.mean_ap, found.map_at_r, found.nmi) == pytest.approx((1, 1, 1, 1))


def test_nmi_of_random_labels_is_low_and_seeded() -> None:
    embeddings, labels = sphere(200), torch.arange(200) % 4
    found = evaluate(embeddings, labels, seed=5).nmi
    assert found < 0.1
    assert found == evaluate(embeddings, labels, seed=5).nmi


def test_one_class_is_always_right() -> None:
    found = evaluate(sphere(5), torch.zeros(5, dtype=torch.long))
    assert (found.recall_at_1, found.mean_ap, found.map_at_r) == (1, 1, 1)


def test_metrics_are_json() -> None:
    found = evaluate(sphere(6), torch.arange(6) % 2)
    assert json.loads(json.dumps(found.to_dict()))["recall_at_1"] == found.recall_at_1


@pytest.mark.parametrize(
    ("embeddings", "labels", "says"),
    [
        (sphere(4), torch.arange(4), "no class has two"),
        (sphere(4), torch.zeros(3), "as many labels"),
        (2 * sphere(4), torch.zeros(4), "4 of 4 rows.*norm 2"),
        (sphere(4).index_fill(0, torch.tensor(2), torch.nan), torch.zeros(4), "row 2"),
        (torch.zeros(0, 3), torch.zeros(0), "no class has two"),
        (torch.zeros(3), torch.zeros(3), "shape"),
    ],
)
def test_bad_input_is_a_typed_error(embeddings: Tensor, labels: Tensor, says: str) -> None:
    with pytest.raises(RetrievalError, match=says):
        evaluate(embeddings, labels)


def _noisy_classes(count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N,16) on the sphere whose classes overlap, so that k-means depends on its start; labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, 16, generator=generator)[labels]
    return F.normalize(centers + 1.2 * torch.randn(count, 16, generator=generator), dim=1), labels


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of PyTorch's threads; restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_nmi_is_that_of_the_best_of_ten_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = _noisy_classes(240, 12)
    best = cluster_nmi(embeddings, labels, seed=0)
    points = embeddings.double().numpy()
    ten, one = (KMeans(12, n_init=n, max_iter=100, random_state=0).fit(points) for n in (10, 1))
    assert ten.inertia_ < one.inertia_
    assert best == pytest.approx(normalized_mutual_info_score(labels.numpy(), ten.labels_), abs=1e-6)
    monkeypatch.setattr(retrieval, "LARGE_CLUSTERING", 0)
    single = cluster_nmi(embeddings, labels, seed=0)
    assert single == pytest.approx(normalized_mutual_info_score(labels.numpy(), one.labels_), abs=1e-6)


def test_threads_do_not_change_the_metrics(threads: Callable[[int], None]) -> None:
    embeddings, labels = _noisy_classes(240, 12)
    found = []
    for count in (1, 2, 8):
        threads(count)
        with threadpool_limits(count):
            found.append(evaluate(embeddings, labels))
    for other in found[1:]:
        assert other.nmi == found[0].nmi
        for name, value in found[0].to_dict().items():
            assert other.to_dict()[name] == pytest.approx(value, abs=1e-6), name


def test_rounding_of_embeddings_does_not_change_nmi() -> None:
    """Batch sizes and threads change embeddings by about 1e-6 in float32."""
    embeddings, labels = _noisy_classes(240, 12)
    before = cluster_nmi(embeddings, labels, seed=0)
    for seed in range(3):
        noise = 1e-6 * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(seed))
        assert cluster_nmi(embeddings + noise, labels, seed=0) == pytest.approx(before, abs=1e-12)
