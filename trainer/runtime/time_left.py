"""The time that a run still takes: the estimate from before training, corrected by how long its stages really take."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from hardrank.models.progress import OnProgress, StageProgress


class TimeLeft:
    """Adds the time of the later stages to reports of progress.

    Args:
        estimated: Seconds of each stage, in the order of the run.
        report: Receives the reports.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, estimated: Mapping[str, float], report: OnProgress, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._estimated, self._report, self._clock = estimated, report, clock
        self._first: dict[str, tuple[float, float]] = {}
        self._seconds: dict[str, float] = {}
        """By stage: since its first report."""
        self._expected: dict[str, float] = {}
        """By stage: estimate of what was done since then."""

    def __call__(self, progress: StageProgress) -> None:
        """Report the progress of a stage; only those of the estimate get a time."""
        stage = progress.stage
        if stage in self._estimated:
            now, share = self._clock(), progress.done / max(1, progress.total)
            began, at_first = self._first.setdefault(stage, (now, share))
            self._seconds[stage], self._expected[stage] = now - began, (share - at_first) * self._estimated[stage]
            names = list(self._estimated)
            later = sum(self._estimated[name] for name in names[names.index(stage) + 1 :])
            expected = sum(self._expected.values())
            correction = sum(self._seconds.values()) / expected if expected > 0 else 1.0
            progress = replace(progress, later_seconds=later * correction)
        self._report(progress)
