"""ERS at equal Recall@1 and the verdicts of claims, on tables made by hand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from scipy.stats import t

from hardrank.trainer.config import ConfigError
from hardrank.trainer.studies.claims import Claim, claims_markdown, judge
from hardrank.trainer.studies.curves import Point, at_recall, compare, pareto_front


def point(recall: float, ers: float) -> Point:
    return Point(recall=recall, ers=ers, error=1.0, cosine=0.1)


def row(
    title: str, points: Mapping[int, tuple[float, float] | None], *, cosine: float = 0.1, half: float = 0.98
) -> dict[str, Any]:
    """A row of the table with Recall@1 in % and ERS by seed; None for a training that failed."""
    by_seed = [
        {
            "seed": seed,
            "recall_at_1": pair[0] / 100,
            "ers": pair[1],
            "ers_low": pair[1] - half,
            "ers_high": pair[1] + half,
            "mean_cosine": cosine,
            "collapsed": False,
        }
        for seed, pair in points.items()
        if pair
    ]
    failures = ["diverged"] * sum(pair is None for pair in points.values())
    spread = {"mean": cosine, "sd": None, "low": cosine, "high": cosine}
    return {
        "title": title,
        "seeds": list(points),
        "by_seed": by_seed,
        "failures": failures,
        "mean_cosine": spread,
        "metrics": {"recall_at_1": {"mean": 0.4}},
    }


def test_the_front_holds_points_that_no_other_beats_in_both() -> None:
    points = [point(40, 20), point(30, 30), point(35, 19), point(30, 25), point(20, 30), point(10, 50)]
    assert [(one.recall, one.ers) for one in pareto_front(points)] == [(10, 50), (30, 30), (40, 20)]


def test_a_curve_is_estimated_by_interpolation_and_bounded_by_the_points_beside() -> None:
    points = [point(40, 20), point(30, 30), point(35, 1)]
    found = [at_recall(points, recall) for recall in (32.5, 40, 41, 29)]
    assert [one.estimate.ers for one in found] == [27.5, 20, 20, 30]
    assert [(one.most, one.least) for one in found] == [(30, 20), (20, 20), (20, None), (None, 30)]


def test_the_interval_is_the_wider_one_of_seeds_and_images() -> None:
    curve = [row("b", {0: (40, 10), 1: (40, 10), 2: (40, 10)})]
    ers = (20.0, 24.0, 25.0)
    spread = compare(row("a", {seed: (40, value) for seed, value in enumerate(ers)}), "b", curve)
    assert spread is not None
    assert (spread.difference.mean, spread.seeds) == (13, (0, 1, 2))
    deviation = math.sqrt(sum((value - 23) ** 2 for value in ers) / 2)
    assert spread.difference.high - spread.difference.mean == pytest.approx(t.ppf(0.975, 2) * deviation / math.sqrt(3))
    equal = compare(row("a", dict.fromkeys(range(3), (40.0, 23.0))), "b", curve)
    assert equal is not None
    # A half-width of 0.98 is a standard error of 0.5 for each of the two.
    assert equal.difference.high - equal.difference.mean == pytest.approx(1.96 * math.sqrt(2) * 0.5 / math.sqrt(3))


def test_only_seeds_that_all_rows_have_are_compared() -> None:
    curve = [row("b", {0: (30, 30), 1: (30, 30), 2: (30, 30)}), row("c", {0: (40, 20), 1: (40, 10)})]
    found = compare(row("a", {0: (40, 25), 1: (40, 25), 2: (40, 25)}), "curve", curve)
    assert found is not None
    assert (found.seeds, found.other_ers) == ((0, 1), 15)
    assert compare(row("a", {0: (40, 25)}), "curve", curve) is None


@pytest.mark.parametrize("failed", ["row", "curve"])
def test_a_failed_training_is_not_left_out_of_a_mean(failed: str) -> None:
    points: dict[int, tuple[float, float] | None] = {0: (40, 25), 1: (40, 25), 2: (40, 25)}
    lost = points | {2: None}
    rows = {"a": row("a", lost if failed == "row" else points), "b": row("b", lost if failed == "curve" else points)}
    assert compare(rows["a"], "b", [rows["b"]]) is None
    found = judge(Claim(text="…", row="a", above=("b",)), {}, rows)
    assert (found["verdict"], found["lacking"]) == ("not decidable", ["two seeds of a and b, none of which failed"])


def test_seeds_beyond_an_end_without_a_bound_leave_a_claim_open() -> None:
    """One seed is above the highest Recall@1 of the curve, the other one below its lowest."""
    rows = {"a": row("a", {0: (45, 90), 1: (25, 90)}), "b": row("b", {0: (40, 20), 1: (40, 20)})}
    found = judge(Claim(text="…", row="a", above=("b",)), {}, rows)
    assert (found["verdict"], found["differences"][0]["above_most"]) == ("not decidable", None)


@pytest.mark.parametrize(
    ("recall", "ers", "verdict"),
    [
        (35, 40, "yes"),
        (35, 10, "no"),
        (35, 29, "not decidable"),  # above the line through both points: a curve may be above it, too
        (35, 21, "not decidable"),
        (45, 40, "yes"),  # more Recall@1 than the curve, and more ERS than its end
        (45, 10, "not decidable"),  # the curve may fall below that
        (25, 10, "no"),
        (25, 40, "not decidable"),  # the curve may rise above that
    ],
)
def test_a_claim_is_decided_by_the_interval_and_the_ends_of_the_curve(recall: float, ers: float, verdict: str) -> None:
    rows = {
        "a": row("a", {0: (recall, ers), 1: (recall, ers)}),
        "b": row("b", {0: (30, 30), 1: (30, 30)}),
        "c": row("c", {0: (40, 20), 1: (40, 20)}),
    }
    claim = Claim(text="a is above", row="a", above=("bc",))
    found = judge(claim, {"bc": ("b", "c")}, rows)
    assert found["verdict"] == verdict
    assert found["differences"][0]["recall"] == pytest.approx(recall)
    assert f"| **{verdict}** |" in "\n".join(claims_markdown([found]))


def test_a_claim_about_several_curves_needs_all_and_fails_with_one() -> None:
    rows = {name: row(name, {0: (40, ers), 1: (40, ers)}) for name, ers in (("a", 30), ("low", 10), ("high", 50))}

    def verdict(*above: str) -> str:
        return str(judge(Claim(text="…", row="a", above=above), {}, rows)["verdict"])

    assert verdict("low") == "yes"
    assert verdict("low", "high") == "no"
    assert verdict("low", "absent") == "not decidable"
    assert judge(Claim(text="…", row="a", above=("low", "absent")), {}, rows)["lacking"] == ["absent"]


def test_a_part_of_a_curve_refutes_a_claim_but_does_not_confirm_it() -> None:
    rows = {
        one["title"]: one for one in (row("a", {0: (40, 20), 1: (40, 21)}), row("better", {0: (41, 30), 1: (41, 31)}))
    }
    curves = {"curve": ["better", "absent"]}
    refuted = judge(Claim(text="…", row="a", above=("curve",)), curves, rows)
    assert (refuted["verdict"], refuted["lacking"]) == ("no", [])
    (difference,) = refuted["differences"]
    assert difference["above_least"]["mean"] == pytest.approx(-10)
    open_still = judge(Claim(text="…", row="better", above=("curve",)), {"curve": ["a", "absent"]}, rows)
    assert (open_still["verdict"], open_still["lacking"], open_still["differences"]) == (
        "not decidable",
        ["absent"],
        [],
    )


@pytest.mark.parametrize(
    ("cosines", "recall", "failed", "verdict"),
    [
        ((0.99, 0.99), 10, 0, "yes"),
        ((0.99, 0.99), 30, 0, "no"),  # alike, but they still rank the images
        ((0.5, 0.5), 10, 0, "no"),
        ((0.99,), 10, 0, "not decidable"),
        ((0.99,), 10, 1, "yes"),
    ],
)
def test_a_collapse_needs_all_of_two_seeds(cosines: Sequence[float], recall: float, failed: int, verdict: str) -> None:
    points = dict.fromkeys(range(len(cosines)), (recall, 20.0)) | {9 - seed: None for seed in range(failed)}
    rows = {"a": row("a", points, cosine=cosines[0]), "b": row("b", {0: (40, 20)})}
    claim = Claim(text="a collapses", collapse=("a",))
    found = judge(claim, {}, rows, reference="b")
    assert found["verdict"] == verdict
    assert claims_markdown([found])[2].startswith(f"| a collapses | **{verdict}** |")
    without = judge(claim, {}, rows, reference="c")
    assert (without["verdict"], without["lacking"][0]) == ("not decidable", "c")


def test_nothing_is_decided_without_trials() -> None:
    claims = [Claim(text="x", row="a", above=("b",)), Claim(text="y", collapse=("a",))]
    assert {judge(claim, {}, {})["verdict"] for claim in claims} == {"not decidable"}
    with pytest.raises(ConfigError, match="either row and above, or collapse"):
        Claim(text="z", row="a", above=("b",), collapse=("a",))
