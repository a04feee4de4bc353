"""ERS at equal Recall@1: each defense's own curve over its strength, and what it reaches at a given Recall@1."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

Content = Mapping[str, Any]

_NORMAL: Final = 1.96
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trained model: retrieval and robustness."""

    recall: float
    """Recall@1 in %."""
    ers: float
    error: float
    """Standard error of ERS over the attacked images."""
    cosine: float
    """Mean cosine of all pairs."""


def points_by_seed(row: Content) -> dict[int, Point | None]:
    """Return the points of a table's row by seed; None for a training that failed."""
    found: dict[int, Point | None] = dict.fromkeys(row["seeds"])
    for one in row["by_seed"]:
        found[one["seed"]] = Point(
            recall=100 * one["recall_at_1"],
            ers=one["ers"],
            error=(one["ers_high"] - one["ers_low"]) / (2 * _NORMAL),
            cosine=one["mean_cosine"],
        )
    return found


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both Recall@1 and ERS, by rising Recall@1."""
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.recall, -one.ers)):
        if not front or point.ers > front[-1].ers:
            front.append(point)
    return front[::-1]


@dataclass(frozen=True, kw_only=True)
class OnCurve:
    """What a defense has at a Recall@1: an estimate, and bounds that hold if more Recall@1 never goes with more ERS."""

    estimate: Point
    """Interpolated linearly between two points of the front; beyond its ends, the end."""
    most: float | None
    """ERS of the point with the next lower Recall@1, which the defense does not exceed; None below the lowest one."""
    least: float | None
    """ERS of the point with the next higher Recall@1, which the defense has at least; None above the highest one."""


def at_recall(points: Sequence[Point], recall: float) -> OnCurve:
    """Return what the defense of `points` has at `recall`, from their Pareto front."""
    front = pareto_front(points)
    xs = [one.recall for one in front]
    values = {
        name: float(np.interp(recall, xs, [getattr(one, name) for one in front])) for name in ("ers", "error", "cosine")
    }
    lower = [one.ers for one in front if one.recall <= recall]
    higher = [one.ers for one in front if one.recall >= recall]
    return OnCurve(
        estimate=Point(recall=recall, **values),
        most=lower[-1] if lower else None,
        least=higher[0] if higher else None,
    )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean difference of ERS and its 95 % interval."""

    mean: float
    low: float
    high: float


def interval_text(interval: Content | None) -> str:
    """Return the JSON values of an `Interval` in words; empty for None."""
    return f"{interval['mean']:+.1f} [{interval['low']:+.1f}, {interval['high']:+.1f}]" if interval else ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of ERS of a row and a curve, at the Recall@1 of the row; means over the seeds that both have."""

    row: str
    curve: str
    seeds: tuple[int, ...]
    recall: float
    """Recall@1 in %."""
    ers: float
    """Of the row."""
    cosine: float
    """Of the row."""
    other_ers: float
    other_cosine: float
    difference: Interval
    """From the estimates of the curve."""
    above_most: Interval | None
    """From the upper bounds of the curve; None if a seed has none."""
    above_least: Interval | None
    """From the lower bounds of the curve; None if a seed has none."""

    @property
    def verdict(self) -> bool | None:
        """True if the row is above the upper bounds of the curve, False if it is below the lower ones, else None.

        The 95 % interval of the difference has to exclude 0. Interpolation does not decide: between two points a
        defense can have more than the line through them.
        """
        if self.above_most and self.above_most.low > 0:
            return True
        if self.above_least and self.above_least.high < 0:
            return False
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "seeds": list(self.seeds)}


def compare(row: Content, name: str, curve: Sequence[Content]) -> Difference | None:
    """Compare a row with a curve at the row's Recall@1, seed by seed.

    The intervals are the wider one of two 95 % intervals: Student's t over the differences of the seeds, and the
    normal one of the attacked images.

    Returns:
        The comparison of the seeds that all have; None with fewer than two. None, too, if a training failed: leaving
        it out would favor its defense.
    """
    own = points_by_seed(row)
    others = [points_by_seed(one) for one in curve]
    seeds = [seed for seed in own if all(seed in other for other in others)]
    points = [own[seed] for seed in seeds]
    curves = [[other[seed] for other in others] for seed in seeds]
    if len(seeds) < 2 or None in points or any(None in one for one in curves):
        return None
    rows = [point for point in points if point is not None]
    found = [
        at_recall([one for one in known if one is not None], point.recall)
        for point, known in zip(rows, curves, strict=True)
    ]
    errors = [math.hypot(point.error, other.estimate.error) for point, other in zip(rows, found, strict=True)]

    def from_(values: Sequence[float | None]) -> Interval | None:
        known = [point.ers - value for point, value in zip(rows, values, strict=True) if value is not None]
        return _interval(known, errors) if len(known) == len(rows) else None

    difference = from_([other.estimate.ers for other in found])
    assert difference is not None
    return Difference(
        row=row["title"],
        curve=name,
        seeds=tuple(seeds),
        recall=_mean([point.recall for point in rows]),
        ers=_mean([point.ers for point in rows]),
        cosine=_mean([point.cosine for point in rows]),
        other_ers=_mean([other.estimate.ers for other in found]),
        other_cosine=_mean([other.estimate.cosine for other in found]),
        difference=difference,
        above_most=from_([other.most for other in found]),
        above_least=from_([other.least for other in found]),
    )


def _interval(differences: Sequence[float], errors: Sequence[float]) -> Interval:
    """Return the mean of `differences`, n ≥ 2, with an interval; `errors` are their standard errors over images."""
    half = max(_student(np.array(differences)), _NORMAL * _mean(errors) / math.sqrt(len(errors)))
    mean = _mean(differences)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def _student(values: np.ndarray) -> float:
    """Half the 95 % interval of the mean of `values` (n,), n ≥ 2."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
