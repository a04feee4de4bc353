"""FARE: the loss, the perturbation, and what it needs."""

from dataclasses import replace

import pytest
import torch

from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.defenses import DefenseError
from tests.trainer.defenses.case import EPSILON, DefenseCase, make_case

SINGLE_STEP = PGDOptions(epsilon=EPSILON, alpha=1.25 * EPSILON, steps=1)


@pytest.fixture
def moved() -> tuple[DefenseCase, FoldedEmbedder]:
    """A network whose weights have changed since the beginning of the stage, and its copy from then."""
    case = make_case()
    reference = FoldedEmbedder(case.embedder)
    with torch.no_grad():
        for parameter in case.embedder.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return case, reference


@pytest.mark.parametrize(("name", "weight"), [("FARE", 0.0), ("FARE(lambda=0.5)", 0.5)])
def test_the_loss_is_the_squared_distance_to_the_reference(
    moved: tuple[DefenseCase, FoldedEmbedder], name: str, weight: float
) -> None:
    case, reference = moved
    conditions = replace(case.conditions(attack=SINGLE_STEP), reference=reference, random_start=True)
    result = case.run(name, conditions)
    perturbed = case.seen[0][: len(case.images)]
    with torch.no_grad():
        target = reference(case.images)
        expected = (case.embedder(perturbed) - target).square().sum(1).mean()
        expected = expected + weight * (case.embedder(case.images) - target).square().sum(1).mean()
    assert float(result.loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert (perturbed - case.images).abs().max() <= EPSILON + 1e-9
    assert len(case.seen[0]) == len(case.images) * (2 if weight else 1)


def test_the_perturbation_moves_embeddings_away_from_the_reference(moved: tuple[DefenseCase, FoldedEmbedder]) -> None:
    case, reference = moved
    conditions = replace(case.conditions(attack=SINGLE_STEP), reference=reference, random_start=True)
    result = case.run("FARE", conditions)
    assert result.measures["shift"] > 1.5 * result.measures["benign_shift"] > 0


def test_the_first_iteration_has_a_perturbation_without_a_random_start() -> None:
    """φ(x) = φ₀(x) then, where the distance has a gradient nevertheless."""
    case = make_case()
    conditions = replace(case.conditions(attack=SINGLE_STEP), reference=FoldedEmbedder(case.embedder))
    assert case.run("FARE", conditions).measures["shift"] > 0


def test_it_needs_the_reference() -> None:
    with pytest.raises(DefenseError, match="reference"):
        make_case().run("FARE")


def test_a_random_start_lies_within_the_budget_and_depends_on_the_generator() -> None:
    case = make_case()
    attack = PGDOptions(epsilon=EPSILON, alpha=0.0, steps=1)
    drawn = []
    for seed in (0, 0, 1):
        conditions = replace(
            case.conditions(attack=attack), random_start=True, generator=torch.Generator().manual_seed(seed)
        )
        case.run("EST[R]", conditions)
        drawn.append(case.seen[-1])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    offset = (drawn[0] - case.images).abs()
    assert offset.max() <= EPSILON + 1e-9
    assert offset.mean() > EPSILON / 4
    case.run("EST[R]", case.conditions(attack=attack))
    assert torch.equal(case.seen[-1], case.images), "without it, a step of length 0 moves nothing"
