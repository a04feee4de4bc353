"""TRIDE against plain loops: whose turn it is, how strong, and when it stops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.attacks.pgd import PGDOptions, pgd
from hardrank.trainer.config import TrainingOptions
from hardrank.trainer.defenses import Conditions, Defense
from hardrank.trainer.defenses.tride import (
    AnchorAway,
    CandidatesTogether,
    TripletDecoupling,
    collapseness,
    weighted_mean,
)
from hardrank.trainer.metric.losses import distance, triplet_loss
from hardrank.trainer.metric.samplers import Sampler
from hardrank.trainer.training.stage import StepContext, TrainingState
from hardrank.trainer.training.stages import TrainingImages, TripletStage
from tests.trainer.defenses.case import ALPHA, EPSILON, STEPS, DefenseCase


def naive_mean(distances: list[float], temperature: float) -> float:
    weights = [math.exp(temperature * (d - max(distances))) for d in distances]
    return sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)


@pytest.mark.parametrize("temperature", [0.0, 2.0, 9.5, 10.0, 1000.0])
def test_weighted_means_agree_with_the_formula(temperature: float) -> None:
    distances = torch.rand(3, 5, dtype=torch.float64) * 2
    expected = [naive_mean(row, temperature) for row in distances.tolist()]
    assert weighted_mean(distances, temperature).tolist() == pytest.approx(expected)


def test_the_weights_reach_from_the_mean_to_the_maximum() -> None:
    distances = torch.rand(7)
    assert weighted_mean(distances, 0.0).item() == pytest.approx(distances.mean().item())
    assert weighted_mean(distances, 1e6).item() == pytest.approx(distances.max().item())
    assert weighted_mean(distances[:1], 10.0).item() == pytest.approx(distances[0].item())


def sphere(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_the_candidates_objective_agrees_with_loops() -> None:
    torch.manual_seed(0)
    anchors, candidates = sphere(4, 5), sphere(2, 8, 5)
    found = CandidatesTogether(anchors, 10.0)(candidates, torch.arange(2), 0)
    for group, value in zip(candidates, found, strict=True):
        to_positive = [distance(anchors[i], group[i]).item() for i in range(4)]
        to_negative = [distance(anchors[i], group[4 + i]).item() for i in range(4)]
        assert value.item() == pytest.approx(max(0.0, naive_mean(to_negative, 10) - naive_mean(to_positive, 10)))


@pytest.mark.parametrize("count", [1, 4, 5])
def test_the_anchors_objective_agrees_with_loops(count: int) -> None:
    torch.manual_seed(count)
    origin, positives, negatives, moved = (sphere(count, 5) for _ in range(4))
    found = AnchorAway(origin, positives, negatives, 2.0)(moved[None], torch.arange(1), 0)
    to_positive = [distance(moved[i], positives[i]).item() for i in range(count)]
    to_negative = [distance(moved[i], negatives[i]).item() for i in range(count)]
    near = sorted(to_negative)[: max(1, count // 2)]
    shift = [distance(moved[i], origin[i]).item() for i in range(count)]
    expected = max(0.0, naive_mean(to_positive, 2) - naive_mean(to_negative, 2))
    expected += max(0.0, sum(near) / len(near) - sum(shift) / count)
    assert found.tolist() == pytest.approx([expected])


def test_the_factor_that_is_left_out_changes_no_sign() -> None:
    """exp(−max(0, D(a,n) − D(a,p))) scales the second term, which stands alone wherever the factor is not 1."""
    torch.manual_seed(1)
    for _ in range(20):
        origin, positives, negatives = (sphere(4, 5) for _ in range(3))
        moved = sphere(1, 4, 5).requires_grad_(True)
        objective = AnchorAway(origin, positives, negatives, 10.0)(moved, torch.arange(1), 0)
        apart = collapseness(distance(moved, positives), distance(moved, negatives), 10.0)
        first = apart.clamp_min(0)
        scaled = first + torch.exp(-(-apart).clamp_min(0)).detach() * (objective - first)
        (ours,) = torch.autograd.grad(objective.sum(), moved, retain_graph=True)
        (theirs,) = torch.autograd.grad(scaled.sum(), moved)
        assert torch.equal(ours.sign(), theirs.sign())


def conditions(case: DefenseCase, *, iteration: int, progress: float = 1.0) -> Conditions:
    return case.conditions(iteration=iteration, progress=progress)


def plain_turn(case: DefenseCase, *, iteration: int, progress: float) -> list[Tensor]:
    """Anchors, positives and negatives of a turn, by autograd through the plain network."""
    triplets = case.triplets(Sampler.SOFTHARD)
    images = list(triplets.gather(case.images))
    own = [part.detach() for part in triplets.gather(case.benign())]
    moving = [0] if iteration % 2 else [1, 2]
    origin = [images[i] for i in moving]
    for _ in range(STEPS):
        x = [images[i].detach().clone().requires_grad_(True) for i in moving]
        embedded = list(own)
        for i, part in zip(moving, x, strict=True):
            embedded[i] = case.embedder(part)
        a, p, n = embedded
        to_positive, to_negative = distance(a, p), distance(a, n)
        weights = [torch.exp(10 * (d - d.max())) for d in (to_positive, to_negative)]
        far, near = ((w * d).sum() / w.sum() for w, d in zip(weights, (to_positive, to_negative), strict=True))
        if iteration % 2:
            half = to_negative.sort().values[: len(to_negative) // 2]
            loss = (far - near).relu() + (half.mean() - distance(a, own[0]).mean()).relu()
        else:
            loss = (near - far).relu()
        gradients = torch.autograd.grad(loss, x)
        for i, start, gradient in zip(moving, origin, gradients, strict=True):
            change = images[i] - progress * ALPHA * gradient.sign() - start
            images[i] = (start + change.clamp(-EPSILON, EPSILON)).clamp(0, 1)
    return images


@pytest.mark.parametrize("iteration", [0, 1, 6, 7])
@pytest.mark.parametrize("progress", [0.3, 1.0])
def test_a_turn_agrees_with_the_plain_one(case: DefenseCase, iteration: int, progress: float) -> None:
    outcome = case.run("TRIDE[S]", conditions(case, iteration=iteration, progress=progress))
    plain = plain_turn(case, iteration=iteration, progress=progress)
    # The folded network differs by rounding, which may decide the sign of a gradient that is all but zero.
    assert ((case.seen[-1] - torch.cat(plain)).abs() < 1e-9).double().mean() > 0.999
    expected = triplet_loss(*(case.embedder(part) for part in plain))
    assert outcome.loss.item() == pytest.approx(expected.item(), abs=1e-4)


def moved_parts(case: DefenseCase) -> list[bool]:
    """Which of the anchors, positives and negatives differ from the images of the batch."""
    parts = zip(case.seen[-1].chunk(3), case.triplets(Sampler.SOFTHARD).gather(case.images), strict=True)
    return [not torch.equal(given, origin) for given, origin in parts]


def test_candidates_and_anchors_take_turns(case: DefenseCase) -> None:
    for iteration in range(4):
        case.run("TRIDE[S]", conditions(case, iteration=iteration))
        assert moved_parts(case) == ([True, False, False] if iteration % 2 else [False, True, True])


@pytest.mark.parametrize("iteration", [0, 1])
def test_it_begins_as_regular_training_and_grows_stronger(case: DefenseCase, iteration: int) -> None:
    reached = [
        case.run("TRIDE[S]", conditions(case, iteration=iteration, progress=progress)).measures["hardness_reached"]
        for progress in (0.0, 0.3, 1.0)
    ]
    assert reached[0] == pytest.approx(case.run("regular[S]").measures["hardness"], abs=1e-9)
    if iteration == 0:
        assert reached == sorted(reached)
    triplets = case.triplets(Sampler.SOFTHARD)
    largest = (case.seen[1] - torch.cat(triplets.gather(case.images))).abs().amax().item()
    assert largest <= STEPS * 0.3 * ALPHA + 1e-12


def test_the_objectives_fall(case: DefenseCase) -> None:
    triplets = case.triplets(Sampler.SOFTHARD)
    own = triplets.gather(case.benign())
    images = triplets.gather(case.images)
    attack = PGDOptions(epsilon=EPSILON, alpha=ALPHA / 2, steps=STEPS)
    frozen = case.conditions().frozen
    for objective, group in (
        (CandidatesTogether(own[0], 10.0), torch.cat(images[1:])[None]),
        (AnchorAway(*own, 10.0), images[0][None]),
    ):
        moved = pgd(frozen, group, objective, attack)
        with torch.no_grad():
            before, after = (objective(case.embedder(x[0])[None], torch.arange(1), 0).item() for x in (group, moved))
        assert after < before


def test_candidates_that_have_collapsed_are_left_alone(case: DefenseCase) -> None:
    """Positives farther than negatives: the hinge is satisfied, and the benign candidates are trained on."""
    triplets = case.triplets(Sampler.RANDOM)
    wrong = replace(triplets, positive=triplets.negative, negative=triplets.positive)
    defense = TripletDecoupling(sampler=Sampler.RANDOM)
    given = defense.perturb(case.images, case.benign(), wrong, case.conditions(progress=1.0))
    assert torch.equal(given, torch.cat(wrong.gather(case.images)))


def test_collapseness_is_logged(case: DefenseCase) -> None:
    outcome = case.run("TRIDE[S](lambda=2)", conditions(case, iteration=0))
    a, p, n = case.triplets(Sampler.SOFTHARD).gather(case.benign())
    expected = naive_mean(distance(a, p).tolist(), 2) - naive_mean(distance(a, n).tolist(), 2)
    assert outcome.measures["collapseness"] == pytest.approx(expected, abs=1e-6)


def test_the_stage_tells_how_far_it_is(case: DefenseCase) -> None:
    seen: list[tuple[int, float]] = []

    class Spy(Defense):
        @property
        def name(self) -> str:
            return "spy"

        def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> None:
            seen.append((conditions.iteration, conditions.progress))

    labels = case.labels.numpy()
    source = TrainingImages(store=None, labels=labels, crop=32, seed=0)  # type: ignore[arg-type]
    stage = TripletStage(name="s", source=source, options=TrainingOptions(epochs=2, pairs=3), defense=Spy())
    total = stage.iterations
    for step in (0, total // 2, total - 1):
        plain = case.conditions()
        context = StepContext(
            network=case.embedder,
            frozen=plain.frozen,  # type: ignore[arg-type]
            state=TrainingState(step=step),
            generator=torch.Generator(),
        )
        stage.loss(case.images, case.labels, context)
    assert total == 8
    assert seen == [(0, 0.0), (4, 0.5), (7, 0.875)]
