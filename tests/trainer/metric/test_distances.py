"""Distances, nearest neighbors and the mean cosine, against direct computations."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.metric.distances import (
    ABSENT,
    RetrievalError,
    leave_out,
    mean_cosine,
    nearest,
    pairwise_distances,
)


def sphere(count: int, dimension: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dimension, generator=generator, dtype=torch.float64), dim=1)


def test_distances_and_their_gradient_equal_the_broadcast_ones() -> None:
    gallery = sphere(20)
    points = torch.cat([sphere(5, seed=1), -gallery[:2]]).requires_grad_(True)
    found = pairwise_distances(points, gallery)
    expected = (points[:, None] - gallery).norm(dim=2)
    assert torch.allclose(found, expected, atol=1e-9, rtol=0)
    weights = torch.rand(7, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [torch.autograd.grad((d * weights).sum(), points)[0] for d in (found, expected)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-9, rtol=0)


def test_distances_in_float32_never_pull_harder_than_a_unit_vector() -> None:
    gallery = sphere(50, 512).float()
    points = gallery.clone().requires_grad_(True)
    d = pairwise_distances(points, gallery).diagonal()
    assert d.max() < 2e-3
    (gradient,) = torch.autograd.grad(d.sum(), points)
    assert gradient.norm(dim=1).max() <= 1


def test_embeddings_in_nearly_one_direction_are_ranked_in_float32_as_exactly() -> None:
    """After a collapse the distances are far below the rounding of a product of unit vectors."""
    generator = torch.Generator().manual_seed(0)
    offsets = 1e-4 * torch.randn(60, 128, dtype=torch.float64, generator=generator)
    embeddings = F.normalize(torch.ones(128, dtype=torch.float64) / 128**0.5 + offsets, dim=1).float()
    assert mean_cosine(embeddings) > 1 - 2e-6
    exact = torch.cdist(embeddings.double(), embeddings.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = pairwise_distances(embeddings, embeddings)
    apart = ~torch.eye(60, dtype=torch.bool)
    torch.testing.assert_close(found[apart].double(), exact[apart], rtol=1e-3, atol=0)
    points = embeddings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pairwise_distances(points, embeddings)[apart].sum(), points)
    assert bool(gradient.norm(dim=1).gt(0.1).all()), "an attack on such a model has a gradient"


def test_nearest_leaves_out_the_query_by_id_even_among_duplicates() -> None:
    point = sphere(1)
    gallery = torch.cat([point, point, -point])
    assert nearest(point, gallery, torch.tensor([0]), 2).tolist() == [[1, 2]]
    assert nearest(point, gallery, torch.tensor([1]), 1).tolist() == [[0]]
    assert nearest(point, gallery, torch.tensor([ABSENT]), 3)[0, 2] == 2
    with pytest.raises(RetrievalError, match="3 nearest"):
        nearest(point, gallery, torch.tensor([0]), 3)
    assert nearest(gallery[:0], gallery, torch.empty(0, dtype=torch.long), 1).shape == (0, 1)


def test_leave_out_leaves_its_input() -> None:
    distances = torch.ones(2, 3)
    masked = leave_out(distances, torch.tensor([2, ABSENT]))
    assert masked.isinf().nonzero().tolist() == [[0, 2]]
    assert distances.eq(1).all()


def test_mean_cosine() -> None:
    same = sphere(1).expand(10, -1)
    assert mean_cosine(same) == pytest.approx(1)
    assert mean_cosine(torch.cat([same[:1], -same[:1]])) == pytest.approx(-1)
    many = sphere(300)
    exact = ((many @ many.T).sum() - 300) / (300 * 299)
    assert mean_cosine(many) == pytest.approx(exact.item(), abs=1e-12)
    assert np.isnan(mean_cosine(same[:1]))
