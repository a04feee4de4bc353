"""Follows the loss of each image over the steps of a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import Victims
from hardrank.trainer.attacks.pgd import Step


class LossTrace:
    """Each image's loss at the start, late, and at the end, without keeping every step.

    What is kept of an image depends on its own steps alone, so the batch does not matter.

    Args:
        steps: steps of the run.
        passes: forward and backward passes of a step for each image.
    """

    def __init__(self, steps: int, *, passes: int) -> None:
        self._each = passes
        self._steps, self._late, self._end = steps, steps // 2, steps * 3 // 4
        self._sums: list[Tensor] = []
        self._first: Tensor | None = None
        self._number = 0

    last: Tensor
    """(G,): each image's loss as last seen."""
    _blind: Tensor
    _finished: Tensor
    _passes: Tensor
    """(G,) each, from the first step on."""

    def add(self, state: Step) -> None:
        """Take in the state after a step."""
        seen = state.losses.isfinite()
        if self._first is None:
            self._first, self._blind, self.last = state.losses, state.blind, state.losses
            self._passes = torch.zeros_like(seen, dtype=torch.long)
            self._sums = [torch.zeros_like(state.losses) for _ in range(2)]
        self.last = torch.where(seen, state.losses, self.last)  # an image at rest keeps its loss
        self._passes = self._passes + seen.long() * state.images.shape[1] * self._each
        self._finished, self._number = seen.logical_not(), state.number
        if state.number > self._late:
            self._sums[int(state.number > self._end)] += self.last

    def summary(self, victims: Victims, *, cancelled: bool) -> "LossSummary":
        """Return the losses of the whole run of these images."""
        if self._first is None:
            unknown, none = victims.embeddings.new_full((len(victims),), torch.nan), torch.zeros_like(victims.own)
            return LossSummary(unknown, unknown, unknown, none.bool(), none)
        # The engine ends before the last step when all images of the batch are finished.
        over = self._finished if cancelled or self._number == self._steps else torch.ones_like(self._finished)
        counts = min(self._number, self._end) - self._late, self._number - self._end
        late, end = (
            torch.where(over, self.last, total / count if count > 0 else default)
            for total, count, default in zip(self._sums, counts, (self._first, self.last), strict=True)
        )
        return LossSummary(self._first, late, end, self._blind, self._passes)


@dataclass(frozen=True)
class LossSummary:
    """The losses of a run, (G,) each; see the fields of the same meaning in `AttackResult`."""

    first: Tensor
    late: Tensor
    end: Tensor
    blind: Tensor
    passes: Tensor
