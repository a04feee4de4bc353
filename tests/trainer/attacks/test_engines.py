"""The engines: budgets after every step, who moves and who rests, and that APGD searches better."""

import pytest
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.apgd import apgd_steps, checkpoints
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm, Objective, PGDOptions, pgd, pgd_steps, project
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import ENGINES, AttackEngine, StepFunction
from hardrank.trainer.attacks.starts import random_noise, random_starts
from tests.trainer.conftest import Small

ENGINE = pytest.mark.parametrize("engine", [ENGINES[e] for e in AttackEngine], ids=list(AttackEngine))
NORM = pytest.mark.parametrize(("norm", "epsilon"), [(Norm.LINF, 8 / 255), (Norm.L2, 0.5)])


def size(perturbation: Tensor, norm: Norm) -> Tensor:
    flat = perturbation.flatten(1)
    return flat.abs().amax(1) if norm is Norm.LINF else flat.norm(dim=1)


@ENGINE
@NORM
def test_budget_holds_after_every_step(engine: StepFunction, norm: Norm, epsilon: float, small: Small) -> None:
    victims = small.victims(6)
    images = small.images[:6].clone()
    images[0, :, :8] = 0.0  # clipping to [0,1] bites
    options = PGDOptions(epsilon=epsilon, alpha=epsilon / 3, steps=9, norm=norm)
    objective = make_attack("ES").objective(victims, small.gallery, torch.empty(6, 0))
    count = 0
    for state in engine(small.embed, images[:, None], objective, options):
        count = state.number
        assert state.images.shape == (6, 1, 3, 16, 16)
        assert state.images.min() >= 0
        assert state.images.max() <= 1
        assert size(state.images[:, 0] - images, norm).max() <= epsilon * (1 + 1e-12)
    assert count == 9
    assert size(state.images[:, 0] - images, norm).min() > 0.5 * epsilon


@ENGINE
@NORM
def test_no_budget_changes_nothing(engine: StepFunction, norm: Norm, epsilon: float, small: Small) -> None:
    images = small.images[:4, None]
    objective = make_attack("ES").objective(small.victims(4), small.gallery, torch.empty(4, 0))
    *_, last = engine(small.embed, images, objective, PGDOptions(epsilon=0, alpha=0.1, steps=3, norm=norm))
    assert last.images.equal(images)


@ENGINE
def test_no_steps_yield_nothing(engine: StepFunction, small: Small) -> None:
    objective = make_attack("ES").objective(small.victims(2), small.gallery, torch.empty(2, 0))
    assert not list(engine(small.embed, small.images[:2, None], objective, PGDOptions(steps=0)))


def counted(embed: Embed) -> tuple[Embed, list[int]]:
    seen: list[int] = []

    def count(x: Tensor) -> Tensor:
        seen.append(len(x))
        return embed(x)

    return count, seen


def descent_to(goal: Tensor) -> Objective:
    """The objective max(0, goal − d(q̃, q)) of groups of two images, whose loss ends when they are `goal` apart."""

    def objective(embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        gap = (embeddings[:, 0] - embeddings[:, 1]).square().sum(1)
        return torch.relu(goal[rows] - gap)

    return objective


@ENGINE
def test_finished_groups_leave_and_rest(engine: StepFunction, small: Small) -> None:
    images = torch.stack([small.images[:5], small.images[5:10]], dim=1)
    goal = torch.tensor([-1.0, 4.1, 0.0, 4.1, 0.9], dtype=torch.float64)  # three are done at the start or soon
    embed, seen = counted(small.embed)
    alone = []
    for state in engine(embed, images, descent_to(goal), PGDOptions(steps=6)):
        alone.append(state)
    assert seen[0] == 10
    assert seen[1] <= 6
    assert alone[-1].images[0].equal(images[0])
    assert alone[-1].images[2].equal(images[2])
    assert alone[1].losses[[0, 2]].isnan().all()
    assert alone[-1].losses[[1, 3]].isfinite().all()
    for i in (1, 3, 4):  # the company does not matter
        *_, own = engine(small.embed, images[i : i + 1], descent_to(goal[i : i + 1]), PGDOptions(steps=6))
        torch.testing.assert_close(own.images[0], alone[-1].images[i], rtol=0, atol=1e-9)


def test_known_finished_groups_never_enter(small: Small) -> None:
    images = torch.stack([small.images[:3], small.images[5:8]], dim=1)
    embed, seen = counted(small.embed)
    goal = torch.full((3,), 9.0, dtype=torch.float64)
    moving = torch.tensor([True, False, True])
    moved = pgd(embed, images, descent_to(goal), PGDOptions(steps=2), moving=moving)
    assert seen == [4, 4]
    assert moved[1].equal(images[1])
    assert not moved[0].equal(images[0])


def test_one_step_is_the_sign_of_the_gradient(small: Small) -> None:
    goal = torch.full((2,), 9.0, dtype=torch.float64)
    images = torch.stack([small.images[:2], small.images[5:7]], dim=1)
    x = images.clone().requires_grad_(True)
    loss = descent_to(goal)(small.embed(x.flatten(0, 1)).view(2, 2, -1), torch.arange(2), 0).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    for norm in Norm:
        options = PGDOptions(epsilon=1.0, alpha=0.01, steps=1, norm=norm)
        moved = pgd(small.embed, images, descent_to(goal), options)
        length = gradient.flatten(2).norm(dim=2)[..., None, None, None] if norm is Norm.L2 else gradient.abs()
        expected = (images - 0.01 * gradient / length).clamp(0, 1)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_a_group_without_pixel_gradient_is_called_blind(small: Small) -> None:
    def hides(x: Tensor) -> Tensor:
        return small.embed((x * 255).round() / 255 + 0 * x)

    objective = make_attack("TMA").objective(small.victims(3), small.gallery, torch.tensor([[9], [8], [7]]))
    for engine in (pgd_steps, apgd_steps):
        first = next(engine(hides, small.images[:3, None], objective, PGDOptions(steps=4)))
        assert first.blind.all()
        first = next(engine(small.embed, small.images[:3, None], objective, PGDOptions(steps=4)))
        assert not first.blind.any()


@ENGINE
def test_the_mean_of_equal_gradients_is_the_gradient(engine: StepFunction, small: Small) -> None:
    embed, seen = counted(small.embed)
    objective = make_attack("TMA").objective(small.victims(3), small.gallery, torch.tensor([[9], [8], [7]]))
    found = []
    for eot in (1, 3):
        *_, last = engine(embed, small.images[:3, None], objective, PGDOptions(steps=5, eot=eot))
        found.append((last.images, len(seen)))
        seen.clear()
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-9)
    assert found[1][1] - found[0][1] == 10  # two more passes in each step


def test_apgd_keeps_the_best_point_and_finds_lower_losses_than_pgd(small: Small) -> None:
    victims = small.victims(20)
    attack = make_attack("TMA")
    targets = attack.draw(victims, small.gallery, seed=0)
    objective = attack.objective(victims, small.gallery, targets)
    rows, options = torch.arange(20), PGDOptions(steps=20)

    def loss(images: Tensor) -> Tensor:
        return objective(small.embed(images[:, 0])[:, None], rows, 0)

    best = torch.full((20,), torch.inf, dtype=torch.float64)
    for state in apgd_steps(small.embed, small.images[:20, None], objective, options):
        reached = loss(state.images)
        assert (reached <= best + 1e-9).all()
        torch.testing.assert_close(small.embed(state.images[:, 0]), state.embeddings[:, 0], rtol=0, atol=1e-9)
        best = reached
    plain = loss(pgd(small.embed, small.images[:20, None], objective, options))
    assert best.mean() < plain.mean()


def test_checkpoints_come_ever_closer() -> None:
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(4)) == [1, 2, 3, 4]


@NORM
def test_random_starts_fill_the_budget_and_depend_on_the_image_alone(norm: Norm, epsilon: float) -> None:
    images, ids = torch.full((50, 3, 8, 8), 0.5), torch.arange(50)
    options = PGDOptions(epsilon=epsilon, norm=norm)
    starts = random_starts(images, options, ids, seed=3, restart=1)
    sizes = size(starts - images, norm)
    assert sizes.max() <= epsilon * (1 + 1e-5)
    assert sizes.min() < (0.2 if norm is Norm.L2 else 1.0) * epsilon
    assert sizes.max() > sizes.min()
    assert random_starts(images[7:9], options, ids[7:9], seed=3, restart=1).equal(starts[7:9])
    for seed, restart in ((4, 1), (3, 2)):
        assert not random_starts(images, options, ids, seed=seed, restart=restart).equal(starts)
    noise = size(random_noise(images, options, ids, seed=3) - images, norm)
    torch.testing.assert_close(noise, torch.full((50,), epsilon), rtol=1e-4, atol=0)


def test_projection() -> None:
    origin = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    far = torch.tensor([-9.0, 9.0, 9.0]).view(1, 3, 1, 1)
    assert project(far, origin, epsilon=0.25, norm=Norm.LINF).flatten().tolist() == [0.0, 0.75, 1.0]
    inside = torch.tensor([0.1, 0.6, 0.9]).view(1, 3, 1, 1)
    torch.testing.assert_close(project(inside, origin, epsilon=0.5, norm=Norm.L2), inside)
    out = project(origin + torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1), origin, epsilon=0.5, norm=Norm.L2)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.3, 0.9, 1.0]))


@pytest.mark.parametrize(
    "wrong", [{"epsilon": -0.1}, {"alpha": -1.0}, {"steps": -1}, {"epsilon": float("nan")}, {"epsilon": float("inf")}]
)
def test_budgets_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(AttackError, match=next(iter(wrong))):
        PGDOptions(**wrong)  # type: ignore[arg-type]
