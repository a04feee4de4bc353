"""EST and min-max against plain loops, and properties of all baselines."""

import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.defenses import Defense, parse_defense
from hardrank.trainer.defenses.est import AwayFromItself
from hardrank.trainer.defenses.minmax import ease
from hardrank.trainer.metric.collapse import read_collapse
from hardrank.trainer.metric.losses import hardness, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, Triplets, draw_triplets
from tests.trainer.defenses.case import ALPHA, ATTACK, EPSILON, SEED, STEPS, DefenseCase


def plain_step(x: Tensor, origin: Tensor, gradient: Tensor) -> Tensor:
    """One descent of one image, as written in the method."""
    moved = x.detach() - ALPHA * gradient.sign()
    return torch.clamp(origin + (moved - origin).clamp(-EPSILON, EPSILON), 0, 1)


def plain_shifted(case: DefenseCase) -> Tensor:
    """EST's perturbation, an image at a time."""
    shifted = []
    for image in case.images:
        with torch.no_grad():
            own = case.embedder(image[None])[0]
        x = image
        for _ in range(STEPS):
            x = x.detach().clone().requires_grad_(True)
            shift = (case.embedder(x[None])[0] - own + 1e-6).square().sum().sqrt()
            (gradient,) = torch.autograd.grad(-shift, x)
            x = plain_step(x, image, gradient)
        shifted.append(x)
    return torch.stack(shifted)


def plain_hardest(case: DefenseCase, triplets: Triplets) -> Tensor:
    """Min-max's perturbation, a triplet at a time (T,3,3,H,W)."""
    hardest = []
    for group in torch.stack(triplets.gather(case.images), dim=1):
        x = group
        for _ in range(STEPS):
            x = x.detach().clone().requires_grad_(True)
            a, p, n = case.embedder(x)
            (gradient,) = torch.autograd.grad((a - n + 1e-6).norm() - (a - p + 1e-6).norm(), x)
            x = plain_step(x, group, gradient)
        hardest.append(x)
    return torch.stack(hardest)


@pytest.mark.parametrize("sampler", ["R", "S"])
def test_est_agrees_with_a_loop_over_images(case: DefenseCase, sampler: str) -> None:
    outcome = case.run(f"EST[{sampler}]")
    shifted = plain_shifted(case)
    # The folded network differs by rounding, which may decide the sign of a gradient that is all but zero.
    agreeing = ((case.seen[-1] - shifted).abs() < 1e-9).double().mean()
    assert agreeing > 0.999
    expected = triplet_loss(*case.triplets(Sampler(sampler)).gather(case.embedder(shifted)))
    assert outcome.loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert outcome.triplet_loss.item() == outcome.loss.item()


@pytest.mark.parametrize("sampler", ["R", "S"])
def test_released_est_draws_its_triplets_on_the_perturbed_embeddings(case: DefenseCase, sampler: str) -> None:
    outcome = case.run(f"EST-released[{sampler}]")
    embedded = case.embedder(case.seen[-1])
    generator = torch.Generator().manual_seed(SEED)
    triplets = draw_triplets(Sampler(sampler), embedded, case.labels, generator=generator)
    expected = triplet_loss(*triplets.gather(embedded))
    assert outcome.loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert parse_defense(f"EST-released[{sampler}]").trains_batch_norm
    assert not parse_defense(f"EST[{sampler}]").trains_batch_norm


@pytest.mark.parametrize("sampler", ["R", "S", "D"])
def test_minmax_agrees_with_a_loop_over_triplets(case: DefenseCase, sampler: str) -> None:
    outcome = case.run(f"minmax[{sampler}]")
    hardest = plain_hardest(case, case.triplets(Sampler(sampler)))
    flat = hardest.transpose(0, 1).flatten(0, 1)
    assert ((case.seen[-1] - flat).abs() < 1e-9).double().mean() > 0.999
    assert outcome.loss.item() == pytest.approx(triplet_loss(*case.embedder(flat).chunk(3)).item(), abs=1e-4)


def test_minmax_is_hardness_manipulation_towards_2(case: DefenseCase) -> None:
    """Boundary case HM[H_S, 2] of the method."""
    assert case.run("minmax[S]").loss.item() == pytest.approx(case.run("HM[S,2]").loss.item(), abs=1e-12)


def test_minmax_moves_easy_triplets_too(case: DefenseCase) -> None:
    """Those whose triplet loss is zero, with a zero gradient."""
    conditions = replace(case.conditions(), margin=-2.0)
    defense = parse_defense("minmax[R]")
    outcome = defense(case.images, case.labels, conditions)
    assert outcome is not None
    assert outcome.loss.item() == 0
    assert outcome.measures["hardness_reached"] > outcome.measures["hardness"] + 0.01


def test_objectives_point_the_right_way() -> None:
    own = F.normalize(torch.randn(3, 4), dim=1)
    objective = AwayFromItself(own)
    rows = torch.tensor([2, 0])
    assert (objective(-own[rows][:, None], rows, 0) < objective(own[rows][:, None], rows, 0)).all()
    here = own[rows][:, None].requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(here, rows, 0).sum(), here)
    assert gradient.isfinite().all()
    assert gradient.abs().amin() > 0
    triplets = F.normalize(torch.randn(5, 3, 4), dim=2)
    torch.testing.assert_close(ease(triplets, torch.arange(5), 0), -hardness(*triplets.unbind(1)))


def test_est_moves_embeddings_and_logs_the_shift(case: DefenseCase) -> None:
    outcome = case.run("EST[R]")
    with torch.no_grad():
        shift = (case.embedder(case.seen[-1]) - case.benign()).norm(dim=1)
    assert shift.min() > 0
    assert outcome.measures["shift"] == pytest.approx(shift.mean().item(), abs=1e-4)


NAMES = ("EST[R]", "minmax[R]", "TRIDE[R]")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("iteration", [0, 1])
def test_perturbations_stay_within_budget_and_pixel_range(case: DefenseCase, name: str, iteration: int) -> None:
    attack = PGDOptions(epsilon=2 / 255, alpha=1.5 / 255, steps=3)
    case.run(name, case.conditions(attack=attack, iteration=iteration, progress=1.0))
    triplets = case.triplets(Sampler.RANDOM)
    origin = case.images if name == "EST[R]" else torch.cat(triplets.gather(case.images))
    given = case.seen[-1]
    assert 0 < (given - origin).abs().amax() <= 2 / 255 + 1e-12
    assert given.min() >= 0
    assert given.max() <= 1


@pytest.mark.parametrize("name", [*NAMES, "HM[R,2]", "ACT[R]"])
@pytest.mark.parametrize("iteration", [0, 1])
def test_without_a_budget_they_are_regular_training_on_the_same_triplets(
    case: DefenseCase, name: str, iteration: int
) -> None:
    for attack in (replace(ATTACK, epsilon=0.0), replace(ATTACK, steps=0)):
        conditions = case.conditions(attack=attack, iteration=iteration, progress=0.5)
        loss = case.run(name, conditions).loss
        assert loss.item() == pytest.approx(case.run("regular[R]").loss.item(), abs=1e-12)


@pytest.mark.parametrize("name", [*NAMES, "HM[S,g_LGA]&ICS", "ACT[R]", "regular[S]", "MARGIN"])
def test_a_batch_of_one_class_has_no_loss(case: DefenseCase, name: str) -> None:
    assert parse_defense(name)(case.images, torch.zeros_like(case.labels), case.conditions()) is None


@pytest.mark.parametrize("name", [*NAMES, "regular[R]", "ACT[R]", "HM[R,g_LGA]&ICS"])
def test_every_defense_logs_the_measures_of_a_collapse(case: DefenseCase, name: str) -> None:
    measures = case.run(name).measures
    reading = read_collapse(case.benign(), case.labels)
    assert measures["cosine"] == pytest.approx(reading.cosine, abs=1e-6)
    assert (measures["recall"], measures["chance"]) == (reading.recall, reading.chance)
    before = hardness(*case.triplets(Sampler.RANDOM).gather(case.benign())).mean().item()
    assert measures["hardness"] == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_has_gradients_for_all_weights(case: DefenseCase, name: str) -> None:
    gradients = torch.autograd.grad(case.run(name).loss, list(case.embedder.parameters()))  # raises where one is unused
    assert all(gradient.any() for gradient in gradients)


def test_the_defense_of_the_documentation_works(case: DefenseCase) -> None:
    """docs/defenses.md, Adding a defense: its objective and its class, as printed there."""
    page = (Path(__file__).parents[3] / "docs" / "defenses.md").read_text(encoding="utf-8")
    blocks = [dedent(block) for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)]
    made: dict[str, Any] = {}
    exec("\n".join(blocks[:3]), made)
    defense: Defense = made["NearNegative"](sampler=Sampler.SOFTHARD)
    outcome = defense(case.images, case.labels, case.conditions())
    assert outcome is not None
    assert defense.name == "NEG[S]"
    assert outcome.loss.item() > case.run("regular[S]").loss.item()
    still = defense(case.images, case.labels, case.conditions(attack=replace(ATTACK, epsilon=0.0)))
    assert still is not None
    assert still.loss.item() == pytest.approx(case.run("regular[S]").loss.item(), abs=1e-12)
