"""Which targets are drawn, what the draw depends on, and which draws are refused."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.trainer.attacks.attack import Gallery, Victims, check_targets, victims_in
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.registry import ATTACKS, make_attack
from hardrank.trainer.metric.distances import ABSENT, RetrievalError, nearest


def gallery_of(count: int, classes: int = 4) -> Gallery:
    generator = torch.Generator().manual_seed(count)
    points = F.normalize(torch.randn(count, 8, generator=generator, dtype=torch.float64), dim=1)
    return Gallery(points, torch.arange(count) % classes)


@pytest.mark.parametrize("name", ATTACKS)
def test_draws_depend_on_seed_and_query_never_on_the_batch(name: str) -> None:
    gallery = gallery_of(700)
    attack = make_attack(name, **({"share": 0.02} if name == "SPQA-" else {}))
    victims = victims_in(gallery, torch.tensor([5, 600, 44, 45]))
    whole = attack.draw(victims, gallery, seed=1)
    assert whole.shape == (4, attack.target_count)
    parts = [attack.draw(victims[i : i + 1], gallery, seed=1) for i in range(4)]
    assert torch.cat(parts).equal(whole)
    assert attack.draw(victims, gallery, seed=1).equal(whole)
    drawn = name not in ("ES", "LTM", "GTM", "GTT", "MARGIN")
    assert attack.draw(victims, gallery, seed=2).equal(whole) is not drawn


def test_each_attack_draws_its_own_targets() -> None:
    gallery = gallery_of(700)
    victims = victims_in(gallery, torch.arange(40))
    draws = [make_attack(name).draw(victims, gallery, seed=0) for name in ("CA+", "QA+", "TMA")]
    assert not draws[0].equal(draws[1])
    assert not draws[1].equal(draws[2])


@pytest.mark.parametrize("name", ["CA+", "QA+", "TMA"])
def test_uniform_draws_cover_the_gallery(name: str) -> None:
    gallery = gallery_of(20)
    victims = Victims(
        gallery.embeddings[:1].expand(4000, -1), torch.zeros(4000), torch.zeros(4000).long(), torch.arange(4000)
    )
    counts = make_attack(name).draw(victims, gallery, seed=0).flatten().bincount(minlength=20)
    assert counts.min() > 150
    assert counts.max() < 250


@pytest.mark.parametrize(("name", "count"), [("CA-", "w"), ("QA-", "m")])
def test_the_top_1_percent_leaves_out_the_image(name: str, count: str) -> None:
    gallery = gallery_of(499)
    victims = victims_in(gallery, torch.arange(300))
    drawn = make_attack(name, **{count: 3}).draw(victims, gallery, seed=0)
    top = nearest(victims.embeddings, gallery.embeddings, victims.own, 4)  # int(0.01 · 499) = 4
    places = (drawn[..., None] == top[:, None]).nonzero()[:, 2]
    assert len(places) == drawn.numel()
    assert places.bincount(minlength=4).min() > 150
    repeated = [len(set(row)) < 3 for row in drawn.tolist()]
    assert any(repeated) is (name == "CA-")  # QA− draws without replacement


def test_spqa_minus_draws_from_the_top_share_after_the_kept_items() -> None:
    gallery = gallery_of(700)
    victims = victims_in(gallery, torch.arange(50))
    drawn = make_attack("SPQA-", share=0.02).draw(victims, gallery, seed=0)
    top = nearest(victims.embeddings, gallery.embeddings, victims.own, 14)
    assert all(d in t[5:] for [d], t in zip(drawn.tolist(), top.tolist(), strict=True))


def test_spqa_plus_draws_from_the_whole_gallery_also_kept_items() -> None:
    gallery = gallery_of(50)
    victims = victims_in(gallery, torch.arange(50))
    attack = make_attack("SPQA+", m=20)
    drawn = attack.draw(victims, gallery, seed=0)
    assert set(drawn.flatten().tolist()) == set(range(50))
    kept = nearest(victims.embeddings, gallery.embeddings, victims.own, 5)
    share = (drawn[:, :, None] == kept[:, None]).any(2).double().mean().item()
    assert share == pytest.approx(0.1, abs=0.03)  # 5 of 50 items are kept; 1000 draws


def test_gtm_can_take_the_nearest_item_of_another_class_than_the_top_1() -> None:
    gallery = gallery_of(60)
    victims = victims_in(gallery, torch.arange(60))
    u = make_attack("GTM", unmatched="nearest").draw(victims, gallery, seed=0)[:, 0]
    for i in range(60):
        order = (gallery.embeddings - gallery.embeddings[i]).norm(dim=1).argsort().tolist()
        order.remove(i)
        top = gallery.labels[order[0]]
        assert u[i].item() == next(x for x in order if gallery.labels[x] != top)


def test_order_permutes_the_first_k_items() -> None:
    gallery = gallery_of(60)
    victims = victims_in(gallery, torch.arange(60))
    drawn = make_attack("ORDER", k=4).draw(victims, gallery, seed=0)
    top = nearest(victims.embeddings, gallery.embeddings, victims.own, 4)
    assert drawn.sort(1).values.equal(top.sort(1).values)
    assert not drawn.equal(top)


@pytest.mark.parametrize(
    ("name", "options", "count", "says"),
    [
        ("CA+", {"w": 51}, 50, "51 targets.*50 items"),
        ("QA+", {"m": 51}, 50, "51 targets"),
        ("QA-", {"m": 4}, 320, "4 targets.* the 3 items in the top 1 %"),
        ("CA-", {"w": 321}, 320, "321 targets"),
        ("QA-", {"m": 2}, 99, " 1 items"),
        ("QA-", {"share": 0.0}, 99, " 0 items"),
        ("SPQA-", {}, 320, " 0 items"),
    ],
)
def test_too_many_targets_are_refused(name: str, options: dict[str, int], count: int, says: str) -> None:
    gallery = gallery_of(count)
    with pytest.raises(AttackError, match=says):
        make_attack(name, **options).draw(victims_in(gallery, torch.arange(2)), gallery, seed=0)


def test_margin_takes_the_nearest_item_of_each_of_the_nearest_other_classes() -> None:
    gallery = gallery_of(60, classes=7)
    rows = torch.arange(60)
    found = make_attack("MARGIN", targets=4).draw(victims_in(gallery, rows), gallery, seed=0)
    for i in range(60):
        order = (gallery.embeddings - gallery.embeddings[i]).norm(dim=1).argsort().tolist()
        first: dict[int, int] = {}
        for x in order:
            first.setdefault(int(gallery.labels[x]), x)
        del first[i % 7]
        assert found[i].tolist() == list(first.values())[:4]


def test_margin_takes_the_next_items_where_classes_are_few() -> None:
    gallery = gallery_of(8, classes=2)
    found = make_attack("MARGIN", targets=6).draw(victims_in(gallery, torch.tensor([1])), gallery, seed=0)[0].tolist()
    order = (gallery.embeddings - gallery.embeddings[1]).norm(dim=1).argsort().tolist()
    others = [x for x in order if x % 2 == 0]
    assert found == [*others, others[0], others[0]]


@pytest.mark.parametrize("name", ["LTM", "GTM", "MARGIN"])
def test_one_class_has_no_unmatched_item(name: str) -> None:
    gallery = gallery_of(50, classes=1)
    with pytest.raises(AttackError, match=f"{name}: the gallery has one class"):
        make_attack(name).draw(victims_in(gallery, torch.arange(2)), gallery, seed=0)


@pytest.mark.parametrize("name", ["LTM", "MARGIN"])
def test_a_query_of_an_absent_class_cannot_be_misranked(name: str) -> None:
    gallery = gallery_of(50)
    stranger = Victims(gallery.embeddings[:1], torch.tensor([77]), torch.tensor([ABSENT]), torch.tensor([0]))
    with pytest.raises(AttackError, match="no item of the query's class 77"):
        make_attack(name).objective(stranger, gallery, torch.zeros(1, 1).long())


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (torch.zeros(2, 2).long(), r"shape \(2, 1\)"),
        (torch.zeros(2, 1), "integers"),
        (torch.tensor([[0], [50]]), "rows 0 … 49"),
        (torch.tensor([[-1], [0]]), "rows 0 … 49"),
    ],
)
def test_invalid_targets_are_refused(targets: Tensor, says: str) -> None:
    gallery = gallery_of(50)
    with pytest.raises(AttackError, match=says):
        check_targets(targets, victims_in(gallery, torch.arange(2)), gallery, 1)


def test_invalid_galleries_and_queries_are_refused() -> None:
    gallery = gallery_of(50)
    with pytest.raises(RetrievalError, match=r"gallery embeddings.*unit sphere"):
        Gallery(3 * gallery.embeddings, gallery.labels)
    with pytest.raises(AttackError, match="as many labels"):
        Gallery(gallery.embeddings, gallery.labels[:-1])
    with pytest.raises(AttackError, match="gallery of 1 item"):
        Gallery(gallery.embeddings[:1], gallery.labels[:1])
    for rows in (torch.tensor([50]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([[1]])):
        with pytest.raises(AttackError, match="rows 0 … 49"):
            victims_in(gallery, rows)
