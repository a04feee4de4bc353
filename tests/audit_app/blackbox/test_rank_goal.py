"""Losses of visible lists against plain loops, and what lists tell of items that are not visible."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.neighborhood import explore
from hardrank.audit_app.blackbox.rank_goal import AIMS, HEAD, prepare_goal, short_range_correlation
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.registry import ATTACKS

SIZE = 30


class FakeLists:
    """Items on a line; the list of a point has the nearest ones first."""

    def __init__(self, visible: int, images: Tensor) -> None:
        self.size, self.visible, self.images = SIZE, visible, images
        self.read: list[int] = []

    def at(self, places: Tensor) -> Tensor:
        return (places[:, None] - torch.arange(SIZE)).abs().sort(dim=1, stable=True).indices[:, : self.visible]

    def benign(self) -> Tensor:
        return self.at(self.images)

    def lists_of(self, items: Tensor) -> Tensor:
        self.read += items.tolist()
        return self.at(items)


def random_lists(count: int, visible: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(SIZE)[:visible] for _ in range(count)]))


def plain_rank(found: list[int], item: int, path: dict[int, float] | None) -> float:
    """Position / N; outside the list k/N and the discounted mean length of the paths."""
    if item in found:
        return found.index(item) / SIZE
    k = len(found)
    weights = [1 / math.log2(place + 2) for place in range(k)]
    way = 1.0 if path is None else sum(w * path[x] for w, x in zip(weights, found, strict=True)) / sum(weights)
    return k / SIZE + (1 - k / SIZE) * way


@pytest.mark.parametrize("visible", [SIZE, 7])
@pytest.mark.parametrize("attack", ["QA+", "QA-", "TMA", "ES", "ORDER"])
def test_losses_equal_plain_loops(attack: str, visible: int) -> None:
    images, targets = torch.tensor([3.2, 22.1]), torch.tensor([[20, 4, 11], [1, 9, 28]])
    reader = FakeLists(visible, images)
    prepared = prepare_goal(attack, targets, reader, explored=6)
    goal = prepared.goal
    lists = random_lists(6, visible)
    rows = torch.tensor([0, 1, 0, 1, 0, 1])
    losses = goal.losses(lists, rows)
    heads = {"TMA": reader.at(targets[:, 0]), "ES": reader.benign()}
    for number, (found, row) in enumerate(zip(lists.tolist(), rows.tolist(), strict=True)):
        items = heads[attack][row].tolist()[:HEAD] if attack in heads else targets[row].tolist()
        weights = [1 / math.log2(place + 2) if attack in heads else 1.0 for place in range(len(items))]
        total = 0.0
        for place, item in enumerate(items):
            path = None
            if goal.paths is not None:
                source = 0 if attack in heads else place
                path = dict(enumerate(goal.paths[row, source].tolist()))
            total += weights[place] * plain_rank(found, item, path)
        expected = total / sum(weights)
        if attack in {"QA-", "ES"}:
            expected = 1 - expected
        if attack == "ORDER":
            expected = (expected + (1 - plain_correlation(found, items)) / 2) / 2
        assert float(losses[number]) == pytest.approx(expected, abs=1e-6)
        assert -1e-6 <= float(losses[number]) <= 1 + 1e-6


def plain_correlation(found: list[int], items: list[int]) -> float:
    """τ_S of the paper: a pair counts 1 if both are visible and in order, else −1."""
    total, pairs = 0, 0
    for i in range(len(items)):
        for j in range(i + 1, len(items)):
            pairs += 1
            seen = items[i] in found and items[j] in found
            total += 1 if seen and found.index(items[i]) < found.index(items[j]) else -1
    return total / pairs


def test_the_short_range_correlation_counts_pairs_outside_the_list_as_wrong() -> None:
    positions = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 3, -1], [-1, -1, -1]])
    assert short_range_correlation(positions).tolist() == pytest.approx([1, -1, -1 / 3, -1])


def test_paths_are_the_shortest_over_the_lists_that_were_read() -> None:
    lists = random_lists(SIZE, 5, seed=3)

    class Fixed(FakeLists):
        def lists_of(self, items: Tensor) -> Tensor:
            self.read += items.tolist()
            return lists[items]

    reader = Fixed(5, torch.zeros(1))
    paths, spent = explore(reader, [[[(4, 0)]]], lists=10)
    assert spent.tolist() == [10]
    assert len(set(reader.read)) == 10
    assert reader.read[0] == 4
    lengths = {4: 0}
    for _ in range(SIZE):  # Bellman and Ford
        for item in reader.read:
            for place, other in enumerate(lists[item].tolist()):
                if item in lengths:
                    lengths[other] = min(lengths.get(other, 10**6), lengths[item] + place)
    longest = max(lengths.values()) + 1
    expected = [lengths.get(item, longest) / longest for item in range(SIZE)]
    assert paths[0, 0].tolist() == pytest.approx([*expected, 1.0], abs=1e-6)


def test_a_hidden_target_is_felt_through_the_items_that_lead_to_it() -> None:
    """The loss falls on the whole way to the target, of which the list shows nothing at first."""
    reader = FakeLists(4, torch.tensor([2.0]))
    prepared = prepare_goal("QA+", torch.tensor([[27]]), reader, explored=20)
    places = torch.arange(2, 28).float()
    losses = prepared.goal.losses(reader.at(places), torch.zeros(len(places), dtype=torch.long))
    assert int(prepared.spent) == 20
    assert bool((losses[1:] <= losses[:-1] + 1e-6).all())
    assert float(losses[0]) > float(losses[12]) > float(losses[-1]) == 0


def test_unknown_items_are_far_and_take_a_place() -> None:
    reader = FakeLists(4, torch.tensor([2.0]))
    goal = prepare_goal("QA+", torch.tensor([[27]]), reader, explored=5).goal
    losses = goal.losses(torch.tensor([[SIZE, 27, 26, 25], [27, SIZE, SIZE, SIZE], [SIZE] * 4]), torch.zeros(3).long())
    assert losses.tolist() == pytest.approx([1 / SIZE, 0, 1])


def test_each_aim_belongs_to_an_attack_and_others_are_refused() -> None:
    assert set(AIMS) <= set(ATTACKS)
    with pytest.raises(AttackError, match=r"SPQA\+ has no goal"):
        prepare_goal("SPQA+", torch.zeros(1, 1).long(), FakeLists(4, torch.zeros(1)), explored=5)
