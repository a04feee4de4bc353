"""One attack on a batch: it reaches its goal, reports, stops, restarts, and refuses invalid images."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from hardrank.trainer.attacks.attack import Victims
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.registry import ATTACKS, make_attack
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions, AttackProgress, AttackResult, run_attack
from hardrank.trainer.metric.distances import ABSENT, RetrievalError
from tests.reference.attacks import Scene, plain_attack
from tests.trainer.conftest import Small

_SMALL: dict[str, dict[str, Any]] = {
    **{name: {"share": 0.05} for name in ("SPQA-", "QA-", "CA-")},
    "HUB": {"k": 60, "temperature": 0.2},  # no item of 200 is near to all others
}


def attack_on(small: Small, name: str, count: int) -> partial[AttackResult]:
    """`run_attack` on the first `count` images; it still needs its options."""
    attack = make_attack(name, **_SMALL.get(name, {}))
    return partial(run_attack, attack, small.embed, small.images[:count], small.victims(count), small.gallery)


def run(small: Small, name: str, count: int = 40, **options: object) -> AttackResult:
    settings = AttackOptions(**{"steps": 8, **options})  # type: ignore[arg-type]
    return attack_on(small, name, count)(settings, seed=1)


@pytest.mark.parametrize("engine", AttackEngine)
@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_moves_its_figures_towards_its_goal(name: str, engine: AttackEngine, small: Small) -> None:
    figures = make_attack(name).figures
    result = run(small, name, engine=engine, epsilon=24 / 255)
    moved = (result.after - result.before).mean(0)
    assert result.after.shape == (40, len(figures))
    goal = figures[0].attacked - result.before[:, 0].mean()
    assert moved[0] * goal.sign() > 0.1 * goal.abs()
    torch.testing.assert_close(result.embeddings, small.embed(result.images))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_batch_does_not_matter(name: str, small: Small) -> None:
    attack = make_attack(name, **({"share": 0.05} if name == "SPQA-" else {}))
    victims, options = small.victims(12), AttackOptions(steps=5)
    whole = run_attack(attack, small.embed, small.images[:12], victims, small.gallery, options)
    for part in (slice(0, 1), slice(1, 12)):
        some = run_attack(attack, small.embed, small.images[part], victims[part], small.gallery, options)
        assert some.targets.equal(whole.targets[part])
        torch.testing.assert_close(some.after, whole.after[part], rtol=0, atol=1e-6)


def test_reports_each_step_with_loss_and_rank_so_far(small: Small) -> None:
    seen: list[tuple[int, float, float]] = []

    def report(progress: AttackProgress) -> None:
        seen.append((progress.step, progress.losses.mean().item(), progress.figures()[:, 0].mean().item()))

    result = attack_on(small, "QA+", 20)(AttackOptions(steps=6, epsilon=16 / 255), on_step=report)
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0][2] == pytest.approx(result.before[:, 0].mean().item())
    assert seen[-1][1] < seen[0][1]
    assert seen[-1][2] < 0.5 * seen[0][2]
    assert result.first_loss.mean().item() == pytest.approx(seen[0][1])
    assert result.late_loss.mean().item() == pytest.approx(seen[3][1])
    assert result.end_loss.mean().item() == pytest.approx((seen[4][1] + seen[5][1]) / 2)
    assert result.passes <= 120


def test_cancel_stops_before_the_next_step(small: Small) -> None:
    steps: list[int] = []
    result = attack_on(small, "ES", 4)(
        AttackOptions(steps=30, restarts=3),
        on_step=lambda progress: steps.append(progress.step),
        cancel=lambda: len(steps) == 2,
    )
    assert result.cancelled
    assert steps == [1, 2]
    two = run(small, "ES", 4, steps=2)
    torch.testing.assert_close(result.images, two.images)
    torch.testing.assert_close(result.after, two.after)


def test_each_image_keeps_its_worst_restart(small: Small) -> None:
    one = run(small, "TMA", restarts=1)
    three = run(small, "TMA", restarts=3)
    assert (three.after >= one.after - 1e-12).all()
    assert three.after.mean() > one.after.mean()
    assert three.restart.unique().tolist() == [0, 1, 2]
    assert three.image_passes.shape == (40,)
    assert one.image_passes.unique().tolist() == [8]  # TMA never stops early
    assert three.passes == 3 * one.passes == 3 * 8 * 40
    first = three.restart == 0
    torch.testing.assert_close(three.images[first], one.images[first])
    torch.testing.assert_close(small.embed(three.images), three.embeddings)


def test_each_target_of_margin_is_tried_until_the_image_is_won(small: Small) -> None:
    """Compare with a plain loop of PGD over images and targets; the first target that wins is kept."""
    count, epsilon, alpha, steps = 40, 14 / 255, 4 / 255, 6
    network = torch.nn.Module()
    network.forward = small.embed
    result = run(small, "MARGIN", count, epsilon=epsilon, alpha=alpha, steps=steps)
    five = make_attack("MARGIN").draw(small.victims(count), small.gallery, seed=0)
    assert result.targets.equal(five)
    wins, images = torch.zeros(count, 5), []
    for target in range(5):
        scenes = [
            Scene(small.gallery.embeddings, small.gallery.labels, row, [int(five[row, target])]) for row in range(count)
        ]
        perturbed, figures = plain_attack(
            "MARGIN", network, small.images[:count], scenes, epsilon=epsilon, alpha=alpha, steps=steps
        )
        images.append(perturbed)
        wins[:, target] = torch.tensor(figures)[:, 0] == 0
    won = wins.any(1)
    assert won.any()
    assert not won.all()
    assert bool((wins.argmax(1)[won] > 0).any())  # some images need more than the first target
    assert result.after[:, 0].eq(0).equal(won)
    kept = torch.stack(images)[torch.where(won, wins.argmax(1), 0), torch.arange(count)]
    torch.testing.assert_close(result.images, kept, rtol=0, atol=1e-9)
    tried = torch.where(won, wins.argmax(1) + 1, 5)
    assert bool((result.image_passes <= steps * tried).all())
    assert bool((result.image_passes > steps * (tried - 1)).all())


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("engine", AttackEngine)
def test_the_course_of_the_loss_does_not_depend_on_the_batch(engine: AttackEngine, batch: int, small: Small) -> None:
    attack, victims, options = make_attack("LTM"), small.victims(24), AttackOptions(epsilon=24 / 255, engine=engine)
    whole = run_attack(attack, small.embed, small.images[:24], victims, small.gallery, options)
    finished = whole.image_passes < 32
    assert finished.any()
    torch.testing.assert_close(whole.late_loss[finished], whole.end_loss[finished], rtol=0, atol=0)
    parts = [slice(i, min(i + batch, 24)) for i in range(0, 24, batch)]
    runs = [run_attack(attack, small.embed, small.images[p], victims[p], small.gallery, options) for p in parts]
    for field in ("first_loss", "late_loss", "end_loss", "image_passes"):
        found = torch.cat([getattr(one, field) for one in runs])
        torch.testing.assert_close(found, getattr(whole, field), rtol=0, atol=1e-6)


def test_a_random_start_is_another_run(small: Small) -> None:
    assert not run(small, "TMA", 4, random_start=True).images.equal(run(small, "TMA", 4).images)


def test_the_caller_chooses_targets(small: Small) -> None:
    chosen = torch.tensor([199, 198, 197])
    result = attack_on(small, "TMA", 3)(AttackOptions(steps=4), targets=chosen)
    assert result.targets.tolist() == [[199], [198], [197]]
    reached = (result.embeddings * small.gallery.embeddings[chosen]).sum(1, keepdim=True)
    torch.testing.assert_close(result.after, reached)
    with pytest.raises(AttackError, match=r"shape \(3, 1\)"):
        attack_on(small, "TMA", 3)(AttackOptions(), targets=torch.zeros(3, 2).long())


def test_a_judge_embeds_the_end(small: Small) -> None:
    result = attack_on(small, "ES", 3)(AttackOptions(steps=2), judge=lambda x: -small.embed(x))
    torch.testing.assert_close(result.embeddings, -small.embed(result.images))


def test_a_network_off_the_sphere_is_refused(small: Small) -> None:
    for factor in (3, torch.nan):
        with pytest.raises(RetrievalError, match=r"attacked images.*unit sphere"):
            run(replace(small, embed=lambda x, factor=factor: factor * small.embed(x)), "ES", 2)  # type: ignore[misc]


def test_an_image_from_outside_the_gallery(small: Small) -> None:
    image = small.images[:1].flip(3)
    outside = Victims(small.embed(image), torch.tensor([0]), torch.tensor([ABSENT]), torch.tensor([5]))
    result = run_attack(make_attack("QA+"), small.embed, image, outside, small.gallery, AttackOptions(steps=4))
    assert result.after.item() <= result.before.item()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x: 255 * x, r"\[0,1\].*image 0 of 3.*divide"),
        (lambda x: x - 1e-3 * (torch.arange(3) == 2).view(-1, 1, 1, 1) - x.min(), "image 2 of 3"),
        (lambda x: x.index_fill(0, torch.tensor(1), torch.nan), "image 1 of 3"),
        (lambda x: x[:2], "2 images for 3 victims"),
        (lambda x: x[:, :1], "shape"),
        (lambda x: (255 * x).byte(), "floats"),
    ],
)
def test_images_that_cannot_be_attacked(spoil: object, says: str, small: Small) -> None:
    assert callable(spoil)
    with pytest.raises(AttackError, match=says):
        run_attack(
            make_attack("ES"), small.embed, spoil(small.images[:3]), small.victims(3), small.gallery, AttackOptions()
        )
