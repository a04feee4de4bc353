"""Hubs: which queries the attack aims at, which judge it, and that the margin beats the mean similarity."""

import pytest
import torch
from torch.nn.functional import normalize

from hardrank.trainer.attacks.attack import Victims, victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.registry import ATTACKS, make_attack, offered_attacks
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from hardrank.trainer.metric.distances import ABSENT
from tests.trainer.attacks.test_draws import gallery_of
from tests.trainer.conftest import Small


def test_queries_are_different_others_and_at_most_half_of_the_gallery() -> None:
    gallery = gallery_of(101)
    victims = victims_in(gallery, torch.arange(101))
    drawn = make_attack("HUB", queries=30).draw(victims, gallery, seed=0)
    assert all(len(set(row)) == 30 and i not in row for i, row in enumerate(drawn.tolist()))
    counts = drawn.flatten().bincount(minlength=101)
    assert counts.min() > 10  # 30 on average
    most = make_attack("HUB", queries=120).draw(victims, gallery, seed=0)
    assert most.shape == (101, 120)
    assert all(len(set(row)) == 50 and i not in row for i, row in enumerate(most.tolist()))
    outside = Victims(gallery.embeddings[:1], gallery.labels[:1], torch.tensor([ABSENT]), torch.tensor([0]))
    assert len(set(make_attack("HUB", queries=50).draw(outside, gallery, seed=0)[0].tolist())) == 50


def test_the_queries_aimed_at_do_not_judge() -> None:
    gallery = gallery_of(40)
    victims = victims_in(gallery, torch.tensor([7]))
    attack = make_attack("HUB", k=3, queries=5)
    targets = torch.tensor([[1, 2, 3, 4, 5]])
    for row in (*targets[0].tolist(), 7):  # at a query that does not count, or at its own place
        # Beside the item, not at it: as its twin it would be as far from every query, and rounding would decide.
        candidate = normalize(gallery.embeddings[[row]] + 0.01 * gallery.embeddings[[11]], dim=1)
        shares = attack.measure(candidate, victims, gallery, targets)
        distances = (gallery.embeddings - candidate).norm(dim=1)
        expected = 0
        for query in set(range(40)) - {1, 2, 3, 4, 5, 7}:
            others = [x for x in range(40) if x not in (query, 7)]
            nearest = sorted((gallery.embeddings[x] - gallery.embeddings[query]).norm().item() for x in others)
            expected += distances[query].item() < nearest[2]
        assert shares.item() == pytest.approx(100 * expected / 34)


def test_the_margin_reaches_more_queries_than_the_mean_similarity(small: Small) -> None:
    found = {}
    for loss in ("margin", "similarity"):
        attack, options = make_attack("HUB", loss=loss), AttackOptions(steps=12, epsilon=16 / 255)
        result = run_attack(attack, small.embed, small.images[:24], small.victims(24), small.gallery, options)
        found[loss] = result.after.mean().item()
        before = result.before.mean().item()
    assert found["margin"] > 1.5 * before
    assert found["margin"] > 1.5 * found["similarity"]


def test_a_gallery_with_too_few_items_is_refused() -> None:
    gallery = gallery_of(12)
    with pytest.raises(AttackError, match="lower k"):
        make_attack("HUB", k=10).draw(victims_in(gallery, torch.arange(2)), gallery, seed=0)


def test_pages_and_scorecards_leave_it_out() -> None:
    assert set(ATTACKS) - set(offered_attacks()) == {"HUB"}
