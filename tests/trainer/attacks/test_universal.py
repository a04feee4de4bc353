"""Universal perturbations: one r within the budget, which acts on images that it was not learnt on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import victims_in
from hardrank.trainer.attacks.pgd import Norm, PGDOptions
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions
from hardrank.trainer.attacks.starts import random_noise, random_starts
from hardrank.trainer.attacks.universal import (
    UniversalMethod,
    UniversalOptions,
    learn_all,
    learn_universal,
    share_targets,
)
from hardrank.trainer.evaluation.threats import GOALS
from tests.reference.attacks import PLAIN, Scene
from tests.trainer.conftest import Small

LEARN, JUDGED = torch.arange(0, 200, 2), torch.arange(1, 200, 2)
BUDGET = AttackOptions(epsilon=16 / 255)
SHARE = {"QA-": {"share": 0.05}, "CA-": {"share": 0.05}}


def learnt(small: Small, name: str, *, budget: PGDOptions = BUDGET, **options: int) -> Tensor:
    attack = make_attack(name, **SHARE.get(name, {}))
    victims = victims_in(small.gallery, LEARN)
    settings = UniversalOptions(**{"epochs": 6, **options})
    return learn_universal(attack, small.embed, small.images[LEARN], victims, small.gallery, budget, settings, seed=1)


@pytest.mark.parametrize(("norm", "epsilon"), [(Norm.LINF, 8 / 255), (Norm.L2, 1.0)])
def test_budget_holds(norm: Norm, epsilon: float, small: Small) -> None:
    r = learnt(small, "ES", budget=PGDOptions(epsilon=epsilon, norm=norm), epochs=2)
    assert r.shape == (3, 16, 16)
    assert (r.abs().max() if norm is Norm.LINF else r.norm()).item() == pytest.approx(epsilon, rel=1e-6)
    moved = UniversalMethod(perturbations={"ES": r}, learnt={}).apply("ES", small.images) - small.images
    length = moved.abs().amax((1, 2, 3)) if norm is Norm.LINF else moved.flatten(1).norm(dim=1)
    assert length.max() <= epsilon * (1 + 1e-9)
    inside = ((small.images + r >= 0) & (small.images + r <= 1)).all(0)
    torch.testing.assert_close(moved[:, inside], r[inside].expand(200, -1))  # the same for all images


@pytest.mark.parametrize("name", GOALS)
def test_it_moves_images_that_it_was_not_learnt_on_more_than_noise(name: str, small: Small) -> None:
    attack, victims = make_attack(name, **SHARE.get(name, {})), victims_in(small.gallery, JUDGED)
    method = UniversalMethod(perturbations={name: learnt(small, name)}, learnt={})
    result = method(attack, small.embed, small.images[JUDGED], victims, small.gallery, BUDGET, seed=1)
    noisy = small.embed(random_noise(small.images[JUDGED], BUDGET, victims.ids, seed=1))
    noise = attack.measure(noisy, victims, small.gallery, result.targets)
    figure = attack.figures[0]
    before, random, after = (figure.score(x[:, 0]).mean().item() for x in (result.before, noise, result.after))
    assert after < min(before, random) - 1
    torch.testing.assert_close(result.embeddings, small.embed(result.images))


def test_targets_are_shared_where_a_draw_ignores_the_image(small: Small) -> None:
    victims = share_targets(small.victims(30))
    for name, shared in (("TMA", True), ("QA+", True), ("CA+", True), ("QA-", False), ("CA-", False)):
        drawn = make_attack(name, **SHARE.get(name, {})).draw(victims, small.gallery, seed=0)
        assert (len(drawn.unique()) == 1) is shared


def test_updates_equal_a_plain_loop(small: Small) -> None:
    rows, epsilon = torch.tensor([3, 50, 121]), 8 / 255
    budget, options = PGDOptions(epsilon=epsilon), UniversalOptions(epochs=3, batch=2)
    victims = victims_in(small.gallery, rows)
    found = learn_universal(
        make_attack("TMA"), small.embed, small.images[rows], victims, small.gallery, budget, options, seed=4
    )
    target = make_attack("TMA").draw(replace(victims, ids=torch.zeros(3).long()), small.gallery, seed=4)[0].tolist()
    gray = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    r = (random_starts(gray, budget, torch.zeros(1).long(), seed=4, restart=0) - gray)[0]
    order = np.random.default_rng([4, 3_000_089])
    speed, batches = torch.zeros_like(r), [part for _ in range(3) for part in np.array_split(order.permutation(3), 2)]
    for update, batch in enumerate(batches):
        total = torch.zeros_like(r)
        for i in batch:
            row = int(rows[i])
            leaf = r.clone().requires_grad_(True)
            x = (small.images[row] + leaf).clamp(0, 1)
            scene = Scene(small.gallery.embeddings, small.gallery.labels, row, target)
            total += torch.autograd.grad(PLAIN["TMA"][0](small.embed(x[None])[0], scene), leaf)[0]
        mean = total / len(batch)
        speed = 0.9 * speed + mean / mean.abs().mean()
        r = (r - 0.25 * epsilon * (1 - update / 6) * speed.sign()).clamp(-epsilon, epsilon)
    torch.testing.assert_close(found, r, rtol=0, atol=1e-9)


def test_a_perturbation_for_each_goal_and_its_description(small: Small) -> None:
    attacks = {name: make_attack(name) for name in ("ES", "TMA")}
    victims, seen = victims_in(small.gallery, LEARN[:10]), []
    method = learn_all(
        attacks,
        small.embed,
        small.images[LEARN[:10]],
        victims,
        small.gallery,
        BUDGET,
        UniversalOptions(epochs=2, batch=5),
        on_update=lambda done, total: seen.append((done, total)),
    )
    assert not method.perturbations["ES"].equal(method.perturbations["TMA"])
    assert seen == [(i, 8) for i in range(8)]
    assert method.describe()["name"] == "universal"
    assert method.describe()["learnt on"] == 10
