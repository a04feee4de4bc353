"""The search for signs: its budgets, what it learns from losses, and its linear algebra against plain loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.method import SearchState
from hardrank.audit_app.blackbox.oracle import OracleAnswer
from hardrank.audit_app.blackbox.signs import NOISE, SignModel, sign_steps, slope_prior

SIDE = 12
EPSILON = 8 / 255


def search(loss: Callable[[Tensor, Tensor], Tensor], *, queries: list[int], resolution: int = 6) -> list[SearchState]:
    images = torch.full((len(queries), 3, SIDE, SIDE), 128 / 255)
    return list(
        sign_steps(
            lambda x, rows: OracleAnswer(loss(x, rows), x.new_zeros(len(x), 1)),
            images,
            epsilon=EPSILON,
            ids=torch.arange(len(queries)),
            queries=torch.tensor(queries),
            resolution=resolution,
            seed=0,
        )
    )


def test_an_image_that_reached_its_goal_is_not_queried_again() -> None:
    asked: list[int] = []

    def loss(x: Tensor, rows: Tensor) -> Tensor:
        asked.extend(rows.tolist())
        return x.flatten(1).mean(1) * torch.tensor([0.0, 1.0])[rows]

    states = search(loss, queries=[50, 70])
    assert asked.count(0) == 1
    assert asked.count(1) == 70
    assert states[-1].moving == 0
    assert (states[0].images[0] == states[-1].images[0]).all()


def test_the_search_learns_a_smooth_slope() -> None:
    """The loss falls with the agreement with a hidden pattern; random signs agree with half of it."""
    places = torch.arange(SIDE) / SIDE
    hidden = torch.where(torch.cos(2 * torch.pi * (places[:, None] + places)) >= 0, 1.0, -1.0)

    def loss(x: Tensor, rows: Tensor) -> Tensor:
        signs = (x - 128 / 255) / EPSILON
        return 0.5 - 0.4 * (signs * hidden).flatten(1).mean(1)

    states = search(loss, queries=[150, 150])
    assert float(states[0].losses.max()) == pytest.approx(0.5, abs=1e-6)
    assert float(states[-1].losses.max()) < 0.25  # agreement above 62 %
    assert bool((states[-1].losses <= states[1].losses).all())


def test_flat_losses_are_no_error() -> None:
    states = search(lambda x, rows: torch.full((len(x),), 0.4), queries=[60])
    assert float(states[-1].losses) == pytest.approx(0.4, abs=1e-6)


def test_features_and_slopes_equal_plain_loops() -> None:
    side, cosines = 5, 3
    prior = slope_prior(side, cosines)
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(1, prior.size, generator=generator)
    signs = torch.randn(1, 3, side, side, generator=generator).sign()
    slope = torch.zeros(3, side, side, dtype=torch.float64)
    for number, value in enumerate(coefficients[0].tolist()):
        channel, i, j = number // cosines**2, number // cosines % cosines, number % cosines
        for y in range(side):
            for x in range(side):
                wave = math.cos(math.pi * i * (y + 0.5) / side) * math.cos(math.pi * j * (x + 0.5) / side)
                norm = 2 / side * math.sqrt(0.5) ** ((i == 0) + (j == 0))
                amplitude = 1 / math.sqrt(1 + (i * i + j * j) / 4.0**2)
                distance = (y + 0.5 - side / 2) ** 2 + (x + 0.5 - side / 2) ** 2
                window = math.exp(-distance / (2 * (0.3 * side) ** 2))
                slope[channel, y, x] += value * amplitude * window * norm * wave
    torch.testing.assert_close(prior.slopes(coefficients)[0], slope.float(), atol=1e-5, rtol=0)
    told = float((prior.features(signs) * coefficients).sum())
    assert told == pytest.approx(float((slope * signs[0]).sum()), abs=1e-4)


def test_samples_have_the_mean_of_the_posterior() -> None:
    """The mean of many samples is that of a Bayesian linear regression, computed in the other, primal form."""
    prior = slope_prior(6, 2)
    model = SignModel(np.random.default_rng(0), prior)
    signs = model.propose(16)
    true = torch.from_numpy(np.random.default_rng(1).standard_normal(prior.size, dtype=np.float32))
    features = prior.features(signs)
    probits = features @ true
    losses = torch.special.ndtr(probits / probits.abs().max())
    model.observe(signs, losses)
    center = int(losses.argmin())
    differences = (features - features[center]).double()
    changes = torch.special.ndtri(losses.double()) - torch.special.ndtri(losses[center].double())
    variances = differences.square().sum(1)
    noise = NOISE * variances + 1e-4 * variances.mean()
    precision = torch.eye(prior.size, dtype=torch.float64) + (differences.T / noise) @ differences
    expected = torch.linalg.solve(precision, differences.T @ (changes / noise))
    found = model.sample(4000)
    error = 5 * found.std(0) / math.sqrt(len(found))  # five standard errors of the mean
    assert bool(((found.mean(0) - expected).abs() < error + 1e-5).all())
