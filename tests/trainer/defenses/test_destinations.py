"""Hardness, the losses and the destinations against their equations."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.defenses.destinations import (
    Balanced,
    BenignTriplet,
    Constant,
    Destination,
    DestinationInput,
    Gradual,
    Growth,
)
from hardrank.trainer.metric.losses import hardness, ics_loss, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


def _sphere(n: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def _moment(previous_loss: float) -> DestinationInput:
    labels = torch.arange(4).repeat_interleave(2)
    return DestinationInput(
        embeddings=_sphere(8),
        labels=labels,
        previous_loss=previous_loss,
        generator=torch.Generator().manual_seed(0),
    )


def test_losses_against_loops() -> None:
    a, p, n = _sphere(5, 1), _sphere(5, 2), _sphere(5, 3)
    expected, structure = [], []
    for i in range(5):
        d_ap = math.sqrt(sum((x - y + 1e-6) ** 2 for x, y in zip(a[i].tolist(), p[i].tolist(), strict=True)))
        d_an = math.sqrt(sum((x - y + 1e-6) ** 2 for x, y in zip(a[i].tolist(), n[i].tolist(), strict=True)))
        assert hardness(a, p, n)[i].item() == pytest.approx(d_ap - d_an, abs=1e-12)
        expected.append(max(0.0, d_ap - d_an + 0.2))
        structure.append(max(0.0, d_an - d_ap))
    assert triplet_loss(a, p, n).item() == pytest.approx(sum(expected) / 5, abs=1e-12)
    assert ics_loss(anchor=a, adversarial_anchor=n, positive=p).item() == pytest.approx(sum(structure) / 5, abs=1e-12)


@pytest.mark.parametrize(
    ("destination", "loss", "value"),
    [
        (Gradual(), 2.0, -0.2),
        (Gradual(), 0.05, -0.05),
        (Gradual(), 0.0, 0.0),
        (Gradual(growth=Growth.SQUARE), 0.1, -0.2 * 0.25),
        (Gradual(growth=Growth.ROOT), 0.05, -0.2 * 0.5),
        (Gradual(u=2.2), 0.22, -0.02),
        (Constant(-0.1), 0.3, -0.1),
        (Balanced(Constant(-0.2)), 0.05, -0.2 + 0.1 * 0.75),
        (Balanced(Constant(-0.2), xi=0.4), 2.0, -0.2),
    ],
)
def test_destinations_follow_their_equation(destination: Destination, loss: float, value: float) -> None:
    found = destination(_moment(loss))
    assert found.shape == (4,)
    torch.testing.assert_close(found, torch.full((4,), value, dtype=torch.float64))


@pytest.mark.parametrize("sampler", list(Sampler))
def test_a_benign_triplet_gives_the_hardness_of_what_its_sampler_draws(sampler: Sampler) -> None:
    given = _moment(0.1)
    found = BenignTriplet(sampler)(given)
    again = draw_triplets(sampler, given.embeddings, given.labels, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, hardness(*again.gather(given.embeddings)))
