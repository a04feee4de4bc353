"""Movement of rankings against loops that count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardrank.audit_app.ranking.movement import (
    UNRANKED,
    RankingError,
    RankingMovement,
    head,
    overlap_path,
    rank_items,
    rank_path,
    shift,
)

# Few different scores, so that ties are common.
tied_scores = st.lists(st.integers(-3, 3), min_size=2, max_size=12)


def naive_ranks(scores: list[float], left_out: set[int]) -> list[int]:
    """Count, for each item, who is before it."""
    ranks = []
    for i, mine in enumerate(scores):
        ahead = 1
        for j, theirs in enumerate(scores):
            if j not in left_out and (theirs > mine or (theirs == mine and j < i)):
                ahead += 1
        ranks.append(UNRANKED if i in left_out else ahead)
    return ranks


@given(tied_scores, st.integers(0, 11))
def test_ranks_as_a_loop_counts_them(scores: list[int], own: int) -> None:
    left_out = {own % len(scores)}
    found = rank_items(np.array(scores, dtype=np.float32), left_out=sorted(left_out))
    assert found.tolist() == naive_ranks([float(s) for s in scores], left_out)


def test_without_anything_left_out_every_rank_occurs_once() -> None:
    scores = np.random.default_rng(0).standard_normal(50)
    assert sorted(rank_items(scores).tolist()) == list(range(1, 51))


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)))), st.data())
def test_movement_as_loops_see_it(rankings: tuple[list[int], list[int]], data: st.DataObject) -> None:
    before, after = (np.array(r, dtype=np.int64) + 1 for r in rankings)
    k = data.draw(st.integers(1, len(before)))
    moved = RankingMovement(before, after, k)
    was = {i for i in range(len(before)) if before[i] <= k}
    now = {i for i in range(len(after)) if after[i] <= k}
    assert set(moved.entered.tolist()) == now - was
    assert set(moved.left.tolist()) == was - now
    assert moved.overlap == pytest.approx(len(was & now) / k)
    for i in range(len(before)):
        assert moved.risen_by[i] == before[i] - after[i]
    assert [int(before[i]) for i in moved.top_before] == list(range(1, k + 1))
    assert [int(after[i]) for i in moved.top_after] == list(range(1, k + 1))
    assert moved.unmoved == sum(1 for i in was if before[i] == after[i])
    assert moved.mean_fall == pytest.approx(np.mean([after[i] - before[i] for i in was]))
    assert moved.entered.tolist() == sorted(moved.entered.tolist(), key=lambda i: after[i])
    assert moved.left.tolist() == sorted(moved.left.tolist(), key=lambda i: before[i])


def test_the_own_copy_takes_no_part() -> None:
    before = rank_items(np.array([1.0, 0.9, 0.5, 0.1]), left_out=[0])
    after = rank_items(np.array([0.0, 0.1, 0.5, 0.9]), left_out=[0])
    moved = RankingMovement(before, after, 2)
    assert moved.ranked == 3
    assert moved.top_before.tolist() == [1, 2]
    assert moved.top_after.tolist() == [3, 2]
    assert moved.risen_by.tolist() == [0, -2, 0, 2]
    assert (moved.entered.tolist(), moved.left.tolist(), moved.overlap) == ([3], [1], 0.5)


def test_paths_follow_each_step() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, size=(6, 9)).astype(np.float32)
    path = rank_path(scores, [4, 2], left_out=[7])
    overlaps = overlap_path(scores, 3, left_out=[7])
    first = {i for i, r in enumerate(naive_ranks(scores[0].tolist(), {7})) if 0 < r <= 3}
    for step, row in enumerate(scores.tolist()):
        ranks = naive_ranks(row, {7})
        assert path[step].tolist() == [ranks[4], ranks[2]]
        here = {i for i, r in enumerate(ranks) if 0 < r <= 3}
        assert overlaps[step] == pytest.approx(len(first & here) / 3)
    assert overlaps[0] == 1
    assert rank_path(scores[:0], [1]).shape == (0, 1)


def test_a_head_longer_than_the_ranking_is_all_of_it() -> None:
    assert head(np.array([2, UNRANKED, 1]), 10).tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shift_on_the_sphere(dtype: type) -> None:
    a: np.ndarray = np.array([1, 0, 0], dtype=dtype)
    b: np.ndarray = np.array([0, 1, 0], dtype=dtype)
    assert shift(a, b).distance == pytest.approx(np.sqrt(2))
    assert shift(a, b).cosine == pytest.approx(0)
    assert (shift(a, a).distance, shift(a, a).cosine) == (0, 1)
    assert shift(a, -a).distance == pytest.approx(2)


def test_what_cannot_be_ranked_or_compared_is_refused() -> None:
    with pytest.raises(RankingError, match="finite"):
        rank_items(np.array([0.5, np.nan]))
    with pytest.raises(RankingError, match="nothing but the query"):
        rank_items(np.array([1.0]), left_out=[0])
    one, other = rank_items(np.array([1.0, 2.0, 3.0])), rank_items(np.array([1.0, 2.0, 3.0]), left_out=[1])
    with pytest.raises(RankingError, match="same items"):
        RankingMovement(one, other, 1)
    for k in (0, 4):
        with pytest.raises(RankingError, match="3 items are ranked"):
            RankingMovement(one, one, k)
