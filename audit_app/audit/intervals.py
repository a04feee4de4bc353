"""Means over images with their bootstrap intervals."""

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.results.transform_entries import IntervalEntry
from hardrank.trainer.evaluation.scorecard import bootstrap_interval


def mean_intervals(values: npt.NDArray[np.floating], *, seed: int, resamples: int) -> list[IntervalEntry]:
    """Return the mean of each column of `values` (n,F) with its interval."""
    low, high = bootstrap_interval(values, seed=seed, resamples=resamples)
    mean = values.mean(axis=0)
    return [IntervalEntry(value=float(m), low=float(a), high=float(b)) for m, a, b in zip(mean, low, high, strict=True)]
