"""Patches: only the square changes, it may take any value, and its place is searched for."""

from functools import partial

import pytest
import torch

from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.patch import PatchLocation, PatchMethod, largest_square, squares
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions, AttackResult, HasNoise
from hardrank.trainer.evaluation.threats import GOALS
from tests.reference.attacks import PLAIN, Scene
from tests.trainer.conftest import Small

OPTIONS = AttackOptions(steps=8)
SHARE = {"QA-": {"share": 0.05}, "CA-": {"share": 0.05}}


def run(
    small: Small, patch: PatchMethod, name: str, *, count: int = 12, options: AttackOptions = OPTIONS
) -> AttackResult:
    attack = make_attack(name, **SHARE.get(name, {}))
    return patch(attack, small.embed, small.images[:count], small.victims(count), small.gallery, options, seed=3)


@pytest.mark.parametrize(
    "options", [OPTIONS, AttackOptions(steps=6, engine=AttackEngine.APGD, restarts=2), AttackOptions(norm=Norm.L2)]
)
@pytest.mark.parametrize("location", [PatchLocation.FREE, PatchLocation.CENTER])
def test_pixels_outside_the_square_stay_exactly(location: PatchLocation, options: AttackOptions, small: Small) -> None:
    patch = PatchMethod(area=0.1, location=location, places=2)
    result = run(small, patch, "ES", options=options)
    changed = (result.images != small.images[:12]).any(1)
    assert patch.side(small.images) == 5
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    for one in changed:
        rows, columns = one.nonzero().unbind(1)
        assert rows.max() - rows.min() < 5
        assert columns.max() - columns.min() < 5
        if location is PatchLocation.CENTER:
            assert (rows.min() >= 5, rows.max() <= 9) == (True, True)
    assert (result.images - small.images[:12]).abs().max() > 0.3  # far beyond ε


@pytest.mark.parametrize("name", GOALS)
def test_figures_move_towards_the_goal_more_than_with_random_pixels(name: str, small: Small) -> None:
    patch = PatchMethod(area=0.1, places=1)
    result = run(small, patch, name, count=24)
    attack, victims = make_attack(name, **SHARE.get(name, {})), small.victims(24)
    noisy = small.embed(patch.noise(small.images[:24], OPTIONS, victims.ids, seed=3))
    noise = attack.measure(noisy, victims, small.gallery, result.targets)
    figure = attack.figures[0]
    before, random, after = (figure.score(x[:, 0]).mean().item() for x in (result.before, noise, result.after))
    assert after < random - 1
    assert after < before - 5


def test_steps_equal_a_plain_loop(small: Small) -> None:
    result = run(small, PatchMethod(area=0.15, location=PatchLocation.CORNER, alpha=0.07), "TMA", count=3)
    for i in range(3):
        scene = Scene(small.gallery.embeddings, small.gallery.labels, i, result.targets[i].tolist())
        x = small.images[i].clone()
        for _ in range(OPTIONS.steps):
            leaf = x.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(PLAIN["TMA"][0](small.embed(leaf[None])[0], scene), leaf)
            for channel in range(3):
                for row in range(6):
                    for column in range(6):
                        at = (channel, row, column)
                        x[at] = min(1.0, max(0.0, (x[at] - 0.07 * gradient[at].sign()).item()))
        torch.testing.assert_close(result.images[i], x, rtol=0, atol=1e-12)


def test_more_places_are_never_worse_for_the_attacker(small: Small) -> None:
    one, four = (run(small, PatchMethod(area=0.06, places=places), "ES") for places in (1, 4))
    assert (four.after[:, 0] >= one.after[:, 0] - 1e-12).all()
    assert four.after[:, 0].mean() > one.after[:, 0].mean()
    assert four.passes > 3 * one.passes


def test_the_first_place_has_the_largest_gradient() -> None:
    gradient = torch.randn(4, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    corners = largest_square(gradient, 4)
    for one, (top, left) in zip(gradient.abs().sum(1), corners.tolist(), strict=True):
        sums = {(i, j): one[i : i + 4, j : j + 4].sum().item() for i in range(6) for j in range(8)}
        assert sums[top, left] == pytest.approx(max(sums.values()))
    inside = squares(gradient, corners, 4)
    assert inside.sum((1, 2, 3)).tolist() == [16] * 4


def test_targets_of_the_caller_are_checked(small: Small) -> None:
    attack, images, victims = make_attack("TMA"), small.images[:2], small.victims(2)
    patch = partial(PatchMethod(places=1), attack, small.embed, images, victims, small.gallery, AttackOptions(steps=1))
    assert patch(targets=torch.tensor([199, 198])).targets.tolist() == [[199], [198]]
    with pytest.raises(AttackError, match="rows 0 … 199"):
        patch(targets=torch.tensor([[200], [0]]))


def test_draws_depend_on_seed_and_image_alone(small: Small) -> None:
    patch, attack = PatchMethod(places=2), make_attack("TMA")
    whole = run(small, patch, "TMA", count=6)
    some = patch(attack, small.embed, small.images[4:6], small.victims(6)[4:], small.gallery, OPTIONS, seed=3)
    torch.testing.assert_close(some.images, whole.images[4:], rtol=0, atol=1e-9)
    assert isinstance(patch, HasNoise)
    noisy = patch.noise(small.images[:6], OPTIONS, torch.arange(6), seed=3)
    assert patch.noise(small.images[4:6], OPTIONS, torch.arange(4, 6), seed=3).equal(noisy[4:])
