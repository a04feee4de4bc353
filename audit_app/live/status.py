"""The status of a live attack: its phase, its steps and their images."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.images.exact_png import Uint8Image
from hardrank.audit_app.live.result import LiveResult


@dataclass(frozen=True, kw_only=True)
class TracePoint:
    """A step of the attack on one model."""

    step: int
    """Steps done, from 0, over all restarts."""
    queries: int = 0
    """Queries so far, of a black-box search."""
    loss: float
    """Loss of the image; NaN if it was not computed."""
    ranks: tuple[int, ...]
    """Ranks of the tracked items."""
    kept: tuple[int, int]
    """How many of the original ranking's first items are still among the first, and of how many, over all rankings."""

    @property
    def overlap(self) -> float:
        """Share of the first items that stayed, in [0,1]."""
        kept, of = self.kept
        return kept / of


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceFrame:
    """A step with its image."""

    point: TracePoint
    image: Uint8Image
    """(3,S,S)."""
    change: npt.NDArray[np.float32]
    """(3,S,S): the perturbation, of pixels in [0,1]."""


@dataclass(frozen=True, kw_only=True)
class AttackBudget:
    """The budget of the attack on a model."""

    most: int
    """Steps over all restarts, or queries."""
    counts_queries: bool
    """Whether queries are counted rather than steps."""

    def spent(self, point: TracePoint) -> int:
        """How much of it was spent at a step."""
        return point.queries if self.counts_queries else point.step


class AttackPhase(StrEnum):
    """The phase of a live attack."""

    WAITING = "waiting"
    """In the queue, while others run."""
    RUNNING = "running"
    JUDGING = "judging"
    """The steps are done; the served models measure the images."""
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    """Stopped before it began."""
    ABANDONED = "abandoned"

    @property
    def over(self) -> bool:
        """Whether the attack has ended."""
        return self in {AttackPhase.DONE, AttackPhase.FAILED, AttackPhase.STOPPED, AttackPhase.ABANDONED}


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackStatus:
    """A snapshot of a live attack."""

    phase: AttackPhase
    ahead: int
    """How many attacks must end before this one begins."""
    names: tuple[str, ...]
    """Names of the models."""
    budgets: Mapping[str, AttackBudget]
    """By model."""
    curves: Mapping[str, tuple[TracePoint, ...]]
    """By model, all steps so far."""
    frames: Mapping[str, TraceFrame]
    """By model, the latest frame."""
    message: str
    """Why it failed."""
    stopped: bool
    """Whether it was stopped early."""
    seconds: float
    """Since it began to run."""
    result: LiveResult | None
