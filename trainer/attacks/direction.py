"""The two directions of rank attacks: raise or lower."""

from enum import StrEnum

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import Figure


class Direction(StrEnum):
    """Towards the top of a ranking, or towards its end."""

    RAISE = "+"
    LOWER = "-"

    @property
    def sign(self) -> int:
        """+1 to raise, −1 to lower."""
        return 1 if self is Direction.RAISE else -1

    def figure(self, key: str, help: str) -> Figure:
        """Declare a figure: a mean rank in % that this direction drives to 0 or to 100."""
        rise = self is Direction.RAISE
        return Figure(key=key, unit="%", help=help, attacked=0.0 if rise else 100.0, resisted=50.0 if rise else 0.0)


def rank_hinge(distances: Tensor, targets: Tensor, direction: Direction) -> Tensor:
    """Return the mean (G,) over targets c (G,M) and items x of max(0, ±(d(c) − d(x))), by `distances` (G,N)."""
    chosen = distances.gather(1, targets)
    if direction is Direction.RAISE:
        return torch.relu(chosen[..., None] - distances[:, None]).mean((1, 2))
    return torch.relu(distances[:, None] - chosen[..., None]).mean((1, 2))
