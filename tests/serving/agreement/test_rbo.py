"""Rank-biased overlap against its definition, values derived by hand, and permutations."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardrank.serving.agreement.rbo import Ranking, RboError, rank_biased_overlap
from tests.serving.agreement.rankings import untied


def prefix(groups: list[list[str]], depth: int) -> set[str]:
    """Ids of rank at most `depth`; all ids of a group have the rank of its first."""
    found: set[str] = set()
    rank = 1
    for group in groups:
        if rank <= depth:
            found |= set(group)
        rank += len(group)
    return found


def by_definition(one: list[list[str]], other: list[list[str]], p: float, *, terms: int = 2000) -> float:
    """(1 − p) Σ p^(d−1) A_d over `terms` depths, with the paper's assumptions about the unseen part."""
    short, long = sorted((one, other), key=lambda groups: sum(map(len, groups)))
    s, l = (sum(map(len, groups)) for groups in (short, long))  # noqa: E741
    if s == 0:
        return 0.0

    def agreement(depth: int) -> float:
        if depth > l:
            return agreement(l)
        first, second = prefix(short, depth), prefix(long, depth)
        shared, size = float(len(first & second)), len(first)
        if depth > s:  # unseen items of the shorter list agree as often as at its end
            shared += agreement(s) * (depth - s)
            size = depth
        return 2 * shared / (size + len(second))

    found = [agreement(depth) for depth in range(1, l + 1)]
    return math.fsum((1 - p) * p ** (d - 1) * found[min(d, l) - 1] for d in range(1, terms))


def ranking(groups: list[list[str]]) -> Ranking:
    return Ranking(
        ids=tuple(id_ for group in groups for id_ in group),
        scores=tuple(-float(place) for place, group in enumerate(groups) for _ in group),
    )


@st.composite
def grouped(draw: st.DrawFn) -> list[list[str]]:
    ids = draw(st.permutations("abcdefghijkl"))[: draw(st.integers(0, 12))]
    cuts = draw(st.sets(st.integers(1, 11)))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    return [group for a, b in itertools.pairwise(bounds) if (group := ids[a:b])]


@given(grouped(), grouped(), st.sampled_from([0.1, 0.5, 0.9, 0.98]))
@settings(max_examples=300, deadline=None)
def test_equals_the_infinite_sum_with_ties_and_uneven_lengths(
    one: list[list[str]], other: list[list[str]], p: float
) -> None:
    found = rank_biased_overlap(ranking(one), ranking(other), persistence=p)
    assert found == pytest.approx(by_definition(one, other, p), abs=1e-12)
    assert 0 <= found <= 1
    assert found == pytest.approx(rank_biased_overlap(ranking(other), ranking(one), persistence=p), abs=1e-15)


def test_equals_sums_derived_by_hand() -> None:
    # a b c d e f g against z c a v w x y: nothing shared at depths 1 and 2, a and c from 3 on.
    one, other = untied("abcdefg"), untied("zcavwxy")
    p = 0.8
    expected = (1 - p) * sum(p ** (d - 1) * 2 / d for d in range(3, 8)) + p**7 * 2 / 7
    assert rank_biased_overlap(one, other, persistence=p) == pytest.approx(expected, abs=1e-15)
    # a b against a c b: A = 1, 1/2, and at 3 two seen of both and half of the one unseen: (2 + 1/2) / 3.
    expected = 0.5 * (1 + 0.5 * 0.5 + 0.25 * 2.5 / 3) + 0.125 * 2.5 / 3
    assert rank_biased_overlap(untied("ab"), untied("acb"), persistence=0.5) == pytest.approx(expected, abs=1e-15)
    # {a b} tied, c against a b c: A = 2·1/(2+1), 1, 1.
    found = rank_biased_overlap(ranking([["a", "b"], ["c"]]), untied("abc"), persistence=0.5)
    assert found == pytest.approx(0.5 * 2 / 3 + 0.5, abs=1e-15)


@pytest.mark.parametrize("p", [0.2, 0.9])
def test_is_one_only_for_the_same_order(p: float) -> None:
    ids = "abcdef"
    same = rank_biased_overlap(untied(ids), untied(ids), persistence=p)
    assert same == pytest.approx(1, abs=1e-12)
    assert rank_biased_overlap(untied(ids), untied("uvwxyz"), persistence=p) == 0
    for order in itertools.permutations(ids):
        found = rank_biased_overlap(untied(ids), untied(order), persistence=p)
        assert found == pytest.approx(by_definition([[i] for i in ids], [[i] for i in order], p), abs=1e-12)
        assert (found == pytest.approx(1, abs=1e-12)) == ("".join(order) == ids)


def test_a_swap_at_the_top_costs_more_than_one_at_the_bottom() -> None:
    values = []
    for place in range(7):
        order = list("abcdefgh")
        order[place], order[place + 1] = order[place + 1], order[place]
        values.append(rank_biased_overlap(untied("abcdefgh"), untied(order), persistence=0.9))
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_the_first_ten_ranks_hold_86_percent_at_p_09() -> None:
    # Webber et al., equation 21: 1 − p^(d−1) + (1 − p)/p · d · (ln 1/(1−p) − Σ p^i/i).
    p, d = 0.9, 10
    held = 1 - p ** (d - 1) + (1 - p) / p * d * (math.log(1 / (1 - p)) - sum(p**i / i for i in range(1, d)))
    assert held == pytest.approx(0.86, abs=0.005)
    head = [f"h{i}" for i in range(d)]
    found = rank_biased_overlap(
        untied(head + [f"a{i}" for i in range(2000)]),
        untied(head + [f"b{i}" for i in range(2000)]),
        persistence=p,
    )
    assert found == pytest.approx(held, abs=1e-9)


def test_equal_scores_are_ties() -> None:
    tied = Ranking(ids=("a", "b", "c", "d"), scores=(0.9, 0.5, 0.5, 0.1))
    assert tied.ranks().tolist() == [1, 2, 2, 4]
    turned = Ranking(ids=("a", "c", "b", "d"), scores=(0.9, 0.5, 0.5, 0.1))
    assert rank_biased_overlap(tied, turned, persistence=0.9) == pytest.approx(1, abs=1e-12)


def test_an_empty_list_has_no_overlap() -> None:
    empty = untied([])
    assert rank_biased_overlap(empty, untied("ab"), persistence=0.9) == 0
    assert rank_biased_overlap(empty, empty, persistence=0.9) == 0


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, float("nan")])
def test_rejects_a_persistence_out_of_range(p: float) -> None:
    with pytest.raises(RboError, match="persistence"):
        rank_biased_overlap(untied("a"), untied("a"), persistence=p)


@pytest.mark.parametrize(
    ("ids", "scores", "cause"),
    [
        (("a", "a"), (1.0, 0.5), "duplicate"),
        (("a", "b"), (0.5, 1.0), "increase"),
        (("a", "b"), (0.5, float("nan")), "NaN"),
        (("a",), (0.5, 0.4), "2 scores"),
    ],
)
def test_rejects_invalid_rankings(ids: tuple[str, ...], scores: tuple[float, ...], cause: str) -> None:
    with pytest.raises(RboError, match=cause):
        Ranking(ids=ids, scores=scores)
