"""MARGIN: the perturbation and the loss against plain loops."""

import pytest
import torch
from torch import Tensor

from hardrank.trainer.attacks.pgd import PGDOptions
from tests.trainer.defenses.case import ALPHA, EPSILON, STEPS, DefenseCase


def plain_margin(query: Tensor, row: int, items: Tensor, labels: Tensor) -> Tensor:
    """The nearest item of another class less the nearest one of the same class, for one query (D,)."""
    positives = [i for i in range(len(items)) if i != row and labels[i] == labels[row]]
    negatives = [i for i in range(len(items)) if labels[i] != labels[row]]

    def nearest(of: list[int]) -> Tensor:
        distances = torch.stack([(query - items[i] + 1e-6).norm() for i in of])
        return distances.min()

    return nearest(negatives) - nearest(positives)


def plain_attack(case: DefenseCase, row: int, margin: float) -> Tensor:
    items = case.benign()
    x = origin = case.images[row]
    for _ in range(STEPS):
        x = x.detach().requires_grad_(True)
        value = plain_margin(case.embedder(x[None])[0], row, items, case.labels) + margin
        if value <= 0:
            break
        (gradient,) = torch.autograd.grad(value, x)
        x = (x - ALPHA * gradient.sign()).clamp(origin - EPSILON, origin + EPSILON).clamp(0, 1)
    return x.detach()


@pytest.mark.parametrize("margin", [0.2, 0.0])
def test_perturbation_and_loss_agree_with_plain_loops(case: DefenseCase, margin: float) -> None:
    name = "MARGIN" if margin == 0.2 else "MARGIN(margin=0, lambda=0.5)"
    result = case.run(name)
    n = len(case.images)
    queries, benign = case.seen[0].split(n)
    assert torch.equal(benign, case.images)
    for row in range(n):
        assert float((queries[row] - plain_attack(case, row, margin)).abs().max()) < 1e-9
    with torch.no_grad():
        moved, items = case.embedder(queries), case.benign()

        def loss(points: Tensor) -> float:
            values = [max(0.0, 0.2 - float(plain_margin(points[i], i, items, case.labels))) for i in range(n)]
            return sum(values) / n

    assert float(result.triplet_loss) == pytest.approx(loss(moved), abs=1e-5)
    expected = loss(moved) + (0.5 * loss(items) if margin == 0 else 0)
    assert float(result.loss.detach()) == pytest.approx(expected, abs=1e-5)


def test_without_a_budget_queries_are_benign(case: DefenseCase) -> None:
    case.run("MARGIN", case.conditions(attack=PGDOptions(epsilon=0, alpha=ALPHA, steps=STEPS)))
    assert torch.equal(case.seen[0], torch.cat([case.images, case.images]))


def test_the_perturbation_lowers_the_share_of_kept_answers(case: DefenseCase) -> None:
    still = case.run("MARGIN", case.conditions(attack=PGDOptions(epsilon=0, alpha=ALPHA, steps=STEPS)))
    moved = case.run("MARGIN")
    assert moved.measures["hardness_reached"] > still.measures["hardness_reached"]
    assert moved.measures["kept"] <= still.measures["kept"]
