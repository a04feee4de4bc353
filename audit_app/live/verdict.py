"""Whether an attack fooled a model: how far it got from the original ranking to its goal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.trainer.attacks.attack import Figure

FOOLED_FROM: Final = 50.0
"""Per cent of the way to the goal from which a model counts as fooled."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one model."""

    success: float | None
    """Per cent of the way from the original ranking to the attack's goal, 0 to 100, of the figure in which it got
    furthest; None if the original ranking was at the goal already."""

    @property
    def fooled(self) -> bool:
        """Whether the attack got at least half of the way."""
        return self.success is None or self.success >= FOOLED_FROM

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return "already at the goal" if self.success is None else "fooled" if self.fooled else "held"


def verdict_of(figures: Sequence[Figure], before: Mapping[str, float], after: Mapping[str, float]) -> Verdict:
    """Judge an attack by its figures before and after.

    Args:
        figures: What the attack reports, with the value that each has at the goal.
        before: The values for the original image, by key.
        after: The values for the attacked image.
    """
    reached = []
    for figure in figures:
        room = figure.attacked - before[figure.key]
        if abs(room) > 1e-9 and math.isfinite(after[figure.key]):
            reached.append(100 * (after[figure.key] - before[figure.key]) / room)
    return Verdict(success=min(max(max(reached), 0.0), 100.0) if reached else None)
