"""Ranks and their changes, compared with loops that count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardrank.audit_app.ranking.movement import (
    UNRANKED,
    RankingError,
    RankingMovement,
    embedding_shift,
    rank_items,
    top_rows,
)

# Few different scores, so that ties are common.
tied_scores = st.lists(st.integers(-3, 3), min_size=2, max_size=12)


def naive_ranks(scores: list[float], left_out: set[int]) -> list[int]:
    """Rank each item by counting those before it."""
    ranks = []
    for i, mine in enumerate(scores):
        ahead = 1
        for j, theirs in enumerate(scores):
            if j not in left_out and (theirs > mine or (theirs == mine and j < i)):
                ahead += 1
        ranks.append(UNRANKED if i in left_out else ahead)
    return ranks


@given(tied_scores, st.integers(0, 11))
def test_ranks_equal_those_of_a_counting_loop(scores: list[int], own: int) -> None:
    left_out = {own % len(scores)}
    found = rank_items(np.array(scores, dtype=np.float32), left_out=sorted(left_out))
    assert found.tolist() == naive_ranks([float(s) for s in scores], left_out)


def test_every_rank_occurs_once() -> None:
    scores = np.random.default_rng(0).standard_normal(50)
    assert sorted(rank_items(scores).tolist()) == list(range(1, 51))


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)))), st.data())
def test_movement_equals_counting_loops(rankings: tuple[list[int], list[int]], data: st.DataObject) -> None:
    before, after = (np.array(r, dtype=np.int64) + 1 for r in rankings)
    k = data.draw(st.integers(1, len(before)))
    moved = RankingMovement(before, after, k)
    was = {i for i in range(len(before)) if before[i] <= k}
    now = {i for i in range(len(after)) if after[i] <= k}
    assert set(moved.entered.tolist()) == now - was
    assert moved.overlap == pytest.approx(len(was & now) / k)
    for i in range(len(before)):
        assert moved.rank_gain[i] == before[i] - after[i]
    assert [int(before[i]) for i in moved.top_before] == list(range(1, k + 1))
    assert [int(after[i]) for i in moved.top_after] == list(range(1, k + 1))
    assert moved.entered.tolist() == sorted(moved.entered.tolist(), key=lambda i: after[i])


def test_left_out_rows_are_not_ranked() -> None:
    before = rank_items(np.array([1.0, 0.9, 0.5, 0.1]), left_out=[0])
    after = rank_items(np.array([0.0, 0.1, 0.5, 0.9]), left_out=[0])
    moved = RankingMovement(before, after, 2)
    assert moved.ranked == 3
    assert moved.top_before.tolist() == [1, 2]
    assert moved.top_after.tolist() == [3, 2]
    assert moved.rank_gain.tolist() == [0, -2, 0, 2]
    assert (moved.entered.tolist(), moved.overlap) == ([3], 0.5)


def test_top_rows_returns_all_rows_if_fewer_than_k_are_ranked() -> None:
    assert top_rows(np.array([2, UNRANKED, 1]), 10).tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_shift_of_an_embedding_on_the_sphere(dtype: type) -> None:
    a: np.ndarray = np.array([1, 0, 0], dtype=dtype)
    b: np.ndarray = np.array([0, 1, 0], dtype=dtype)
    assert embedding_shift(a, b) == pytest.approx(np.sqrt(2))
    assert embedding_shift(a, a) == 0
    assert embedding_shift(a, -a) == pytest.approx(2)


def test_invalid_scores_rankings_and_k_are_refused() -> None:
    with pytest.raises(RankingError, match="finite"):
        rank_items(np.array([0.5, np.nan]))
    with pytest.raises(RankingError, match="only the query"):
        rank_items(np.array([1.0]), left_out=[0])
    one, other = rank_items(np.array([1.0, 2.0, 3.0])), rank_items(np.array([1.0, 2.0, 3.0]), left_out=[1])
    with pytest.raises(RankingError, match="same items"):
        RankingMovement(one, other, 1)
    for k in (0, 4):
        with pytest.raises(RankingError, match="3 items"):
            RankingMovement(one, one, k)
