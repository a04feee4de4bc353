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
    """What a curve has at a Recall@1."""

    point: Point
    beyond: int
    """0 within the curve; 1 where Recall@1 is above that of all its points, −1 where it is below that of its front."""


def at_recall(points: Sequence[Point], recall: float) -> OnCurve:
    """Return the curve through the Pareto front of `points`, interpolated linearly at `recall`.

    Beyond an end it has the value of that end. Above the highest Recall@1 that is more than the defense can be expected
    to have there; below the lowest one of the front it is at least what the defense has.
    """
    front = pareto_front(points)
    xs = [one.recall for one in front]
    values = {
        name: float(np.interp(recall, xs, [getattr(one, name) for one in front])) for name in ("ers", "error", "cosine")
    }
    beyond = 1 if recall > xs[-1] else -1 if recall < xs[0] else 0
    return OnCurve(point=Point(recall=recall, **values), beyond=beyond)


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
    difference: float
    low: float
    high: float
    beyond: int
    """As in `OnCurve`, of the seeds that are beyond an end; 0 if all are within."""

    @property
    def verdict(self) -> bool | None:
        """True if the row is above the curve, False if it is below, None if that is not decidable.

        The 95 % interval of the difference has to exclude 0. Beyond an end of the curve only the direction counts in
        which the end is a bound: a row of more Recall@1 can be above, one of less can be below.
        """
        if self.low > 0 and self.beyond >= 0:
            return True
        if self.high < 0 and self.beyond <= 0:
            return False
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "seeds": list(self.seeds)}


def compare(row: Content, name: str, curve: Sequence[Content]) -> Difference | None:
    """Compare a row with a curve at the row's Recall@1, seed by seed; None with fewer than two seeds that all have.

    The interval is the wider one of two 95 % intervals: Student's t over the differences of the seeds, and the normal
    one of the attacked images.
    """
    own = points_by_seed(row)
    others = [points_by_seed(one) for one in curve]
    pairs = {
        seed: (point, [other[seed] for other in others])
        for seed, point in own.items()
        if point is not None and all(seed in other for other in others)
    }
    found = {
        seed: (point, at_recall(known, point.recall))
        for seed, (point, points) in pairs.items()
        if (known := [one for one in points if one is not None])
    }
    if len(found) < 2:
        return None
    differences = np.array([point.ers - other.point.ers for point, other in found.values()])
    errors = np.array([math.hypot(point.error, other.point.error) for point, other in found.values()])
    half = max(_student(differences), _NORMAL * float(errors.mean()) / math.sqrt(len(errors)))
    mean = float(differences.mean())
    beyond = sorted(other.beyond for _, other in found.values())
    return Difference(
        row=row["title"],
        curve=name,
        seeds=tuple(found),
        recall=_mean([point.recall for point, _ in found.values()]),
        ers=_mean([point.ers for point, _ in found.values()]),
        cosine=_mean([point.cosine for point, _ in found.values()]),
        other_ers=_mean([other.point.ers for _, other in found.values()]),
        other_cosine=_mean([other.point.cosine for _, other in found.values()]),
        difference=mean,
        low=mean - half,
        high=mean + half,
        beyond=beyond[-1] or beyond[0],
    )


def _student(values: np.ndarray) -> float:
    """Half the 95 % interval of the mean of `values` (n,), n ≥ 2."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
