"""What can be seen of a live attack while it runs: where it stands, step by step, and its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.images.exact_png import Uint8Image
from hardrank.audit_app.live.result import LiveResult


@dataclass(frozen=True, kw_only=True)
class TracePoint:
    """Where an attack on one model stood."""

    step: int
    """Steps done, from 0; of all restarts."""
    queries: int = 0
    """Questions asked so far, by a search that may only ask."""
    loss: float
    """Of the image at that step; NaN where it was not asked for."""
    ranks: tuple[int, ...]
    """Of the items that the attack is about."""
    overlap: float
    """Share of the benign ranking's head that is still in it, in [0,1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceFrame:
    """A point with its picture."""

    point: TracePoint
    image: Uint8Image
    """(3,S,S)."""
    change: npt.NDArray[np.float32]
    """(3,S,S): the perturbation, of pixels in [0,1]."""


@dataclass(frozen=True, kw_only=True)
class AttackBudget:
    """How long the attack on a model may go on."""

    most: int
    """Steps over all restarts, or questions."""
    asks: bool
    """Whether questions to the model are counted, not steps."""

    def spent(self, point: TracePoint) -> int:
        """How much of it was spent at a point."""
        return point.queries if self.asks else point.step


class AttackPhase(StrEnum):
    """Where a live attack stands."""

    WAITING = "waiting"
    """Others run; this one is in the queue."""
    RUNNING = "running"
    JUDGING = "judging"
    """The steps are done; the served models judge the images."""
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"
    """Abandoned."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in {AttackPhase.DONE, AttackPhase.FAILED, AttackPhase.GONE}


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackStatus:
    """All that can be seen of a live attack at a moment; never changes."""

    phase: AttackPhase
    ahead: int
    """How many attacks have to end before this one begins."""
    names: tuple[str, ...]
    """Of the models."""
    budgets: Mapping[str, AttackBudget]
    """By model."""
    curves: Mapping[str, tuple[TracePoint, ...]]
    """By model, a point for each step so far."""
    frames: Mapping[str, TraceFrame]
    """By model, the latest."""
    message: str
    """What went wrong, when it failed."""
    stopped: bool
    """Whether it was told to end early."""
    seconds: float
    """Since it began to run."""
    result: LiveResult | None
