"""The search by ranks alone: what it sees, its budgets, and where the ranks go."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.rank_goal import AIMS
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.trainer.attacks.attack import Gallery, victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions
from tests.audit_app.galleries import search_images, victims_and_images

BUDGET = AttackOptions()


@pytest.mark.parametrize("visible", [0, 6])
def test_ranks_of_targets_move_the_right_way(visible: int, embedded: EmbeddedGallery) -> None:
    victims, images = victims_and_images(embedded, range(0, 64, 8))
    search = make_search("ranks", queries=150, visible=visible, explored=20)
    for name, way in (("QA+", -1), ("QA-", 1), ("TMA", 1)):
        attack = make_attack(name, **({"share": 0.1} if name == "QA-" else {}))
        result = search(attack, embedded.subject.judge, images, victims, embedded.tensors, BUDGET)
        assert (way * (result.after - result.before)).mean() > (0.01 if name == "TMA" else 3), name
        levels = result.images * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)  # a PNG holds these images exactly
        assert (result.images - images).abs().max() <= BUDGET.epsilon + 1e-6


def test_only_visible_lists_matter(embedded: EmbeddedGallery) -> None:
    """Another metric with the same lists gives the same images."""
    victims, images = victims_and_images(embedded, range(4))
    gallery, judge = embedded.tensors, embedded.subject.judge
    search, attack = make_search("ranks", queries=60), make_attack("QA+")
    targets = attack.draw(victims, gallery, seed=0)
    whole = search(attack, judge, images, victims, gallery, BUDGET, targets=targets)

    def lifted(e: Tensor) -> Tensor:  # cos → (1 + cos) / 2, so all distances change and their order does not
        return F.normalize(torch.cat([e, torch.ones(len(e), 1)], dim=1), dim=1)

    other = Gallery(lifted(gallery.embeddings), gallery.labels)
    same = search(
        attack, lambda x: lifted(judge(x)), images, victims_in(other, victims.own), other, BUDGET, targets=targets
    )
    torch.testing.assert_close(same.images, whole.images, atol=0, rtol=0)
    assert torch.equal(same.queries, whole.queries)


@pytest.mark.parametrize("name", list(AIMS))
@pytest.mark.parametrize("visible", [0, 5])
def test_every_attack_keeps_the_budget_of_queries_and_of_pixels(
    name: str, visible: int, embedded: EmbeddedGallery
) -> None:
    victims, images = victims_and_images(embedded, range(3))
    seen = 0

    def model(x: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return embedded.subject.judge(x)

    attack = make_attack(name, **({"share": 0.1} if name in {"QA-", "CA-"} else {}))
    search = make_search("ranks", queries=30, visible=visible, explored=8)
    result = search(attack, model, images, victims, embedded.tensors, BUDGET)
    assert int(result.queries.max()) <= 30
    lists = (1 if name in {"TMA", "ES", "LTM"} else 0) + (8 if visible else 0)
    read = int(result.queries.sum()) - (seen - 3)  # three more passes measure the result
    assert read == 3 * (lists - (8 % 5 if name in {"MARGIN", "ORDER"} and visible else 0))
    assert (result.images - images).abs().max() <= BUDGET.epsilon + 1e-6


@pytest.mark.parametrize("epsilon", [0.0, 0.9 / 255])
def test_without_a_budget_the_image_stays(epsilon: float, embedded: EmbeddedGallery) -> None:
    result = search_images(make_search("ranks", queries=20), "QA+", embedded, range(3), AttackOptions(epsilon=epsilon))
    assert torch.equal(result.images, victims_and_images(embedded, range(3))[1])
    assert result.queries.tolist() == [1, 1, 1]
    assert torch.equal(result.before, result.after)


def test_unsuitable_options_are_refused(embedded: EmbeddedGallery) -> None:
    with pytest.raises(AttackError, match="7 queries are too few"):
        make_search("ranks", queries=7)
    with pytest.raises(AttackError, match="L∞"):
        search_images(make_search("ranks"), "ES", embedded, range(2), AttackOptions(norm=Norm.L2))
    with pytest.raises(AttackError, match=r"SPQA\+ has no goal"):
        search_images(make_search("ranks"), "SPQA+", embedded, range(2), BUDGET)
