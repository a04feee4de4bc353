"""Losses, their gradients and figures, compared with loops over images and items."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, victims_in
from hardrank.trainer.attacks.registry import ATTACKS, make_attack
from hardrank.trainer.attacks.spqa import SemanticsPreservingQueryAttack
from hardrank.trainer.metric.distances import ABSENT, nearest
from tests.reference.attacks import HUB_NEIGHBORS, HUB_TEMPERATURE, PLAIN, Scene


def scene(seed: int = 0, count: int = 60, dtype: torch.dtype = torch.float64) -> tuple[Gallery, Victims, Tensor]:
    """A gallery, five victims of it, and where they were moved to."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(count, 6, generator=generator, dtype=torch.float64), dim=1).to(dtype)
    gallery = Gallery(embeddings, torch.arange(count) % 5)
    rows = torch.tensor([3, 17, 0, 59, 30])
    noise = torch.randn(5, 6, generator=generator, dtype=torch.float64).to(dtype)
    return gallery, victims_in(gallery, rows), F.normalize(embeddings[rows] + 0.3 * noise, dim=1)


def loss_and_gradient(
    attack: Attack, gallery: Gallery, victims: Victims, moved: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = moved[:, None].clone().requires_grad_(True)
    losses = attack.objective(victims, gallery, targets)(leaf, torch.arange(len(moved)), 0)
    return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0][:, 0]


OPTIONS: dict[str, dict[str, Any]] = {
    "CA+": {"w": 3},
    "CA-": {"w": 3, "share": 0.2},
    "QA+": {"m": 4},
    "QA-": {"m": 4, "share": 0.2},
    "HUB": {"queries": 12, "k": HUB_NEIGHBORS, "temperature": HUB_TEMPERATURE},
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("name", PLAIN)
def test_loss_gradient_and_figures_equal_the_plain_ones(name: str, dtype: torch.dtype, tolerance: float) -> None:
    gallery, victims, moved = scene(dtype=dtype)
    attack = make_attack(name, **OPTIONS.get(name, {}))
    targets = attack.draw(victims, gallery, seed=1)
    losses, gradients = loss_and_gradient(attack, gallery, victims, moved, targets)
    figures = attack.measure(moved, victims, gallery, targets)
    loss_of, figures_of = PLAIN[name]
    for i, row in enumerate(victims.own.tolist()):
        plain = Scene(gallery.embeddings, gallery.labels, row, targets[i].tolist())
        point = moved[i].clone().requires_grad_(True)
        loss = loss_of(point, plain)
        (gradient,) = torch.autograd.grad(loss, point)
        # Only the part along the sphere reaches the pixels.
        along = [g - (g @ moved[i]) * moved[i] for g in (gradients[i], gradient)]
        # d² of an item to itself is rounding: 1e-16, the distance 1e-8.
        assert losses[i].item() == pytest.approx(loss.item(), abs=max(tolerance, 1e-8))
        torch.testing.assert_close(along[0], along[1], rtol=0, atol=10 * tolerance)
        assert figures[i].tolist() == pytest.approx(figures_of(moved[i], plain), abs=1e-9 if tolerance < 1e-9 else 2)


def test_a_subset_of_rows_has_the_losses_of_the_whole() -> None:
    gallery, victims, moved = scene()
    rows = torch.tensor([4, 1])
    for name in (*PLAIN, "SPQA+", "ORDER"):
        attack = make_attack(name, **({"share": 0.2} if name[-1] == "-" else {}))
        objective = attack.objective(victims, gallery, attack.draw(victims, gallery, seed=0))
        whole = objective(moved[:, None], torch.arange(5), 0)
        torch.testing.assert_close(objective(moved[rows][:, None], rows, 0), whole[rows], rtol=0, atol=1e-12)


def test_margin_leaves_out_the_own_copy_and_is_won_without_another_item_of_the_class() -> None:
    gallery, victims, _ = scene()
    attack = make_attack("MARGIN", targets=1)
    targets = attack.draw(victims, gallery, seed=0)
    losses, gradient = loss_and_gradient(attack, gallery, victims, victims.embeddings, targets)
    d = (gallery.embeddings - victims.embeddings[0]).norm(dim=1)
    positives = list(range(8, 60, 5))  # the class of item 3, but itself
    assert losses[0].item() == pytest.approx(max(0.0, (d[targets[0, 0]] - d[positives].min() + 0.02).item()), abs=1e-12)
    assert bool(gradient.any(1).eq(losses > 0).all())
    alone = Gallery(gallery.embeddings, torch.arange(60).clamp(max=4))  # items 0 to 3 are alone in their class
    victims = victims_in(alone, torch.tensor([3, 17]))
    losses, gradient = loss_and_gradient(attack, alone, victims, victims.embeddings, torch.tensor([[1], [2]]))
    assert losses[0].item() == 0
    assert losses[1].item() > 0
    assert not gradient[0].any()


@pytest.mark.parametrize(("name", "sign"), [("SPQA+", 1), ("SPQA-", -1)])
def test_semantics_preserving_loss_and_ranks(name: str, sign: int) -> None:
    gallery, victims, moved = scene()
    attack = make_attack(name, m=2, kept=3, weight=7.0, share=0.3)
    targets = attack.draw(victims, gallery, seed=0)
    losses, _ = loss_and_gradient(attack, gallery, victims, moved, targets)
    figures = attack.measure(moved, victims, gallery, targets)
    kept = nearest(victims.embeddings, gallery.embeddings, victims.own, 3)
    for i in range(5):
        d = (gallery.embeddings - moved[i]).norm(dim=1).tolist()

        def hinge(items: list[int], sign: int, d: list[float] = d) -> float:
            pairs = list(itertools.product(items, range(60)))
            return sum(max(0.0, sign * (d[c] - d[x])) for c, x in pairs) / len(pairs)

        expected = hinge(targets[i].tolist(), sign) + 7 * hinge(kept[i].tolist(), 1)
        assert losses[i].item() == pytest.approx(expected, abs=1e-12)
        ranks = [sorted(range(60), key=d.__getitem__).index(x) for x in (*targets[i].tolist(), *kept[i].tolist())]
        assert figures[i].tolist() == pytest.approx([100 * sum(ranks[:2]) / 120, 100 * sum(ranks[2:]) / 180])


def test_the_weight_of_what_stays_depends_on_the_direction() -> None:
    weights = [make_attack(name) for name in ("SPQA+", "SPQA-")]
    assert [a.weight for a in weights if isinstance(a, SemanticsPreservingQueryAttack)] == [1.0, 100.0]


def test_order_loss_and_kendall_tau() -> None:
    gallery, victims, moved = scene()
    attack = make_attack("ORDER", k=4, weight=0.5)
    targets = attack.draw(victims, gallery, seed=0)
    losses, _ = loss_and_gradient(attack, gallery, victims, moved, targets)
    figures = attack.measure(moved, victims, gallery, targets)
    for i in range(5):
        d = (gallery.embeddings - moved[i]).norm(dim=1).tolist()
        wished = [d[t] for t in targets[i].tolist()]
        pairs = list(itertools.combinations(wished, 2))
        disorder = sum(max(0.0, a - b) for a, b in pairs) / len(pairs)
        raised = sum(max(0.0, c - x) for c, x in itertools.product(wished, d)) / (4 * 60)
        assert losses[i].item() == pytest.approx(disorder + 0.5 * raised, abs=1e-12)
        assert figures[i, 0].item() == pytest.approx(sum((a < b) - (a > b) for a, b in pairs) / len(pairs))


def test_embedding_shift_has_a_direction_where_it_begins() -> None:
    gallery, victims, _ = scene()
    attack = make_attack("ES")
    _, gradient = loss_and_gradient(attack, gallery, victims, victims.embeddings, attack.draw(victims, gallery, seed=0))
    assert gradient.norm(dim=1).min() > 0.5


def test_an_outside_image_has_no_copy_to_leave_out() -> None:
    gallery, inside, _ = scene()
    absent = torch.full((5,), ABSENT)
    outside = Victims(inside.embeddings, inside.labels, absent, torch.arange(5))
    top = make_attack("GTT").draw(outside, gallery, seed=0)
    assert top[:, 0].tolist() == inside.own.tolist()  # their own copies are ordinary items now
    figures = make_attack("ES").measure(inside.embeddings, outside, gallery, absent[:, None][:, :0])
    assert figures[:, 1].tolist() == [100.0] * 5


@pytest.mark.parametrize("name", ["ES", "LTM"])
def test_rounding_of_a_bf16_network_is_no_direction_to_begin_with(name: str) -> None:
    gallery, victims, moved = scene()
    attack = make_attack(name)
    targets = attack.draw(victims, gallery, seed=0)
    exact = loss_and_gradient(attack, gallery, victims, victims.embeddings, targets)[1]
    rounded = F.normalize(victims.embeddings + 0.005 * (moved - victims.embeddings), dim=1)
    begun = loss_and_gradient(attack, gallery, victims, rounded, targets)[1]
    torch.testing.assert_close(begun, exact, rtol=0, atol=0.05)
    away = loss_and_gradient(attack, gallery, victims, moved, targets)[1]
    assert (away - exact).norm(dim=1).min() > 0.1


def test_ltm_without_the_own_copy_minimizes_the_gap_that_the_figure_measures() -> None:
    gallery, victims, moved = scene()
    attack = make_attack("LTM", own_copy="excluded")
    losses, gradient = loss_and_gradient(attack, gallery, victims, moved, attack.draw(victims, gallery, seed=0))
    for i in range(5):
        d = (gallery.embeddings - moved[i]).norm(dim=1)
        same = gallery.labels == victims.labels[i]
        positives = same.clone()
        positives[victims.own[i]] = False
        assert losses[i].item() == pytest.approx(max(0.0, (d[~same].max() - d[positives].min()).item()), abs=1e-12)
    at_home = loss_and_gradient(attack, gallery, victims, victims.embeddings, torch.empty(5, 0))[0]
    published = loss_and_gradient(make_attack("LTM"), gallery, victims, victims.embeddings, torch.empty(5, 0))[0]
    assert (at_home < published).all()  # the own copy, at distance 0, no longer counts
    assert gradient.isfinite().all()


def test_gtt_may_stop_where_its_figure_is_reached() -> None:
    gallery, victims, moved = scene()
    attack = make_attack("GTT", passed_by="first", first=3)
    targets = attack.draw(victims, gallery, seed=0)
    losses, _ = loss_and_gradient(attack, gallery, victims, moved, targets)
    retained = attack.measure(moved, victims, gallery, targets)[:, 0] > 0
    for i in range(5):
        d = (gallery.embeddings - moved[i]).norm(dim=1)
        own, t = int(victims.own[i]), int(targets[i, 0])
        third = sorted(d[x].item() for x in range(len(d)) if x not in (own, t))[2]
        assert losses[i].item() == pytest.approx(max(0.0, third - d[t].item() + 0.02), abs=1e-12)
        if losses[i] == 0:
            assert not retained[i]


@pytest.mark.parametrize(("name", "option"), [("LTM", "own_copy"), ("GTM", "unmatched"), ("GTT", "passed_by")])
def test_the_protocol_is_the_default_and_the_aimed_variant_is_declared(name: str, option: str) -> None:
    kind = ATTACKS[name]
    assert set(kind.aimed) == {option}
    aimed = kind.aim(kind.make())
    assert aimed != kind.make()
    assert aimed == kind.make(**kind.aimed)
    assert kind.aim(aimed) == aimed
