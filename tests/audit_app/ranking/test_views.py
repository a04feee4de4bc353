"""The rankings that attacks change, compared with plain sorting."""

import numpy as np
import pytest

from hardrank.audit_app.ranking.views import CandidateView, QueryView, movement_between, ranks_at, views_of
from hardrank.trainer.attacks.attack import AttackedRole
from hardrank.trainer.attacks.registry import ATTACKS, make_attack
from tests.serving.conftest import unit_vectors

GALLERY = unit_vectors(30)
POINT = unit_vectors(1, seed=9)[0]


def _order(point: np.ndarray, gallery: np.ndarray, left_out: int | None) -> list[int]:
    """Rows by similarity, a loop over items."""
    rows = [row for row in range(len(gallery)) if row != left_out]
    return sorted(rows, key=lambda row: -float(np.dot(gallery[row].astype(np.float64), point)))


def test_a_query_ranks_everything_except_itself() -> None:
    view = QueryView(gallery=GALLERY, own=4, tracked=(7,))
    ranks = ranks_at(view, POINT)
    assert ranks[4] == 0
    for rank, row in enumerate(_order(POINT, GALLERY, 4), start=1):
        assert ranks[row] == rank


def test_a_candidate_is_ranked_for_another_query() -> None:
    view = CandidateView(gallery=GALLERY, query=3, own=8)
    changed = GALLERY.copy()
    changed[8] = POINT
    ranks = ranks_at(view, POINT)
    assert (view.tracked, view.left_out) == ((8,), (3,))
    for rank, row in enumerate(_order(GALLERY[3], changed, 3), start=1):
        assert ranks[row] == rank


def test_a_candidate_outside_the_gallery_is_an_additional_item() -> None:
    view = CandidateView(gallery=GALLERY, query=3, own=None)
    grown = np.vstack([GALLERY, POINT])
    assert view.tracked == (30,)
    for rank, row in enumerate(_order(GALLERY[3], grown, 3), start=1):
        assert ranks_at(view, POINT)[row] == rank


def test_a_candidate_that_is_the_query_itself_is_ranked() -> None:
    view = CandidateView(gallery=GALLERY, query=3, own=3)
    assert view.left_out == ()
    assert ranks_at(view, GALLERY[3])[3] == 1


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_has_a_view(name: str) -> None:
    attack = make_attack(name)
    targets = (5, 9, 5)[: attack.target_count]
    views = views_of(attack, GALLERY, own=2, targets=targets, benign=GALLERY[2])
    assert attack.role is (AttackedRole.CANDIDATE if name.startswith(("CA", "HUB")) else AttackedRole.QUERY)
    for view in views:
        moved = movement_between(view, GALLERY[2], POINT, 10)
        assert moved.ranked == 29
        assert all(moved.before[row] > 0 for row in view.tracked)


def test_without_targets_the_first_benign_item_is_tracked() -> None:
    (view,) = views_of(make_attack("ES"), GALLERY, own=2, targets=(), benign=GALLERY[2])
    assert view.tracked == (_order(GALLERY[2], GALLERY, 2)[0],)


def test_repeated_queries_give_one_ranking_each() -> None:
    views = views_of(make_attack("CA+", w=3), GALLERY, own=2, targets=(5, 9, 5), benign=GALLERY[2])
    assert [view.query for view in views] == [5, 9]


def test_k_is_limited_to_what_is_ranked() -> None:
    view = QueryView(gallery=GALLERY[:3], own=0, tracked=(1,))
    assert movement_between(view, GALLERY[0], POINT, 10).k == 2
