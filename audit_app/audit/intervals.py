"""Means over images with their bootstrap intervals."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.trainer.evaluation.scorecard import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over images with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def mean_intervals(values: npt.NDArray[np.floating], *, seed: int, resamples: int) -> list[Interval]:
    """Return the mean of each column of `values` (n,F) with its interval."""
    low, high = bootstrap_interval(values, seed=seed, resamples=resamples)
    mean = values.mean(axis=0)
    return [Interval(value=float(m), low=float(a), high=float(b)) for m, a, b in zip(mean, low, high, strict=True)]
