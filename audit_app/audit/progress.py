"""Progress of a whole audit: the share of all work that is done, and the time left."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Final

from hardrank.audit_app.audit.estimate import AuditEstimate, AuditPart
from hardrank.models.progress import OnProgress, StageProgress, duration_text

SHARE: Final = "% of audit"
MINUTES_LEFT: Final = "min left"


class AuditProgress:
    """Adds the share of the whole audit and the time left to the reports of its stages.

    Args:
        on_progress: Receives the reports, with `SHARE` and `MINUTES_LEFT` among their measures.
        estimate: What the audit does; None: reports are passed on as they are.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        on_progress: OnProgress,
        estimate: AuditEstimate | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_progress = on_progress
        self._clock = clock
        self._parts = {} if estimate is None else estimate.parts()
        self._total = sum(self._parts.values())
        self._began: tuple[float, float] | None = None
        self._share = 0.0

    def report(
        self, model: str, part: AuditPart, stage: str, done: int, total: int, share: float | None = None
    ) -> None:
        """Report a stage of a part of the audit of `model`.

        Args:
            model: Name of the model.
            part: The part that the stage belongs to.
            stage: Its name.
            done: How much of it is done.
            total: Of how much.
            share: How much of the part is done, 0 to 1; by default `done` of `total`.
        """
        within = (done / total if total else 1.0) if share is None else share
        measures = self._measures(model, part, within)
        self._on_progress(
            StageProgress(stage=stage, done=done, total=total, measures=measures, whole=_describe(measures))
        )

    def _measures(self, model: str, part: AuditPart, within: float) -> dict[str, float]:
        if not self._total or (model, part) not in self._parts:
            return {}
        finished = 0.0
        for key, seconds in self._parts.items():
            if key == (model, part):
                finished += min(1.0, within) * seconds
                break
            finished += seconds
        self._share = max(self._share, finished / self._total)  # the parts of an attack are not all as long
        now, share = self._clock(), self._share
        if self._began is None:  # what an earlier run finished does not count for the pace
            self._began = (now, share)
        began, first = self._began
        measures: dict[str, float] = {SHARE: math.floor(100 * share)}
        if share > first and now > began:
            measures[MINUTES_LEFT] = (now - began) * (1 - share) / (share - first) / 60
        return measures


def _describe(measures: Mapping[str, float]) -> str:
    """Return the share of the audit that is done and the time left in words; empty if they are unknown."""
    if SHARE not in measures:
        return ""
    left = f", about {duration_text(60 * measures[MINUTES_LEFT])} left" if MINUTES_LEFT in measures else ""
    return f"audit {measures[SHARE]:.0f} %{left}"
