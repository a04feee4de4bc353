"""Destinations of hardness manipulation: the hardness that triplets are moved to (method: Destinations H_D).

Each is a frozen value, named as in the paper. It is called in every iteration and returns a hardness in [−2,2] for each
triplet (T,).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import torch
from torch import Tensor

from hardrank.trainer.metric.losses import MARGIN, hardness
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


@dataclass(frozen=True, kw_only=True)
class DestinationInput:
    """Inputs of a destination."""

    embeddings: Tensor
    """(2T,D) of the benign SPC-2 batch, evaluation mode."""
    labels: Tensor
    """(2T,)."""
    previous_loss: float
    """l, the adversarial triplet loss of the iteration before, without ICS; 2 before the first."""
    margin: float = MARGIN
    """γ."""
    generator: torch.Generator | None = None
    """Random generator, for destinations that draw triplets."""


class Destination(Protocol):
    """A rule for H_D."""

    def __call__(self, given: DestinationInput) -> Tensor:
        """Return H_D (T,) for the T anchors of the batch."""

    @property
    def name(self) -> str:
        """The paper's notation."""


class Growth(StrEnum):
    """The shape of the gradual adversary: H_D = −γ·l̄ᵖ with p = 1, 2 or ½."""

    LINEAR = "g_LGA"
    SQUARE = "g_2"
    ROOT = "g_1/2"


_EXPONENTS: Final[dict[Growth, float]] = {Growth.LINEAR: 1.0, Growth.SQUARE: 2.0, Growth.ROOT: 0.5}


def normalized_loss(previous_loss: float, u: float) -> float:
    """Return l̄ = min(u, l)/u in [0,1] (method: Gradual adversary)."""
    return min(u, previous_loss) / u


@dataclass(frozen=True, kw_only=True)
class Gradual:
    """The gradual adversary: −γ (easy) at first, rising towards 0 as the loss falls."""

    growth: Growth = Growth.LINEAR
    u: float | None = None
    """Loss at and above which the adversary is weakest; γ if None. A larger u makes a stronger adversary."""

    @property
    def name(self) -> str:
        """`g_LGA`, `g_2` or `g_1/2`."""
        return str(self.growth)

    def __call__(self, given: DestinationInput) -> Tensor:
        """H_D = −γ·l̄ᵖ for every triplet."""
        loss = normalized_loss(given.previous_loss, self.u or given.margin)
        return _constant(-given.margin * loss ** _EXPONENTS[self.growth], given)


@dataclass(frozen=True)
class Constant:
    """The same hardness for all triplets and iterations; 2 is min-max training."""

    value: float
    text: str | None = None
    """Name of the destination, if it was written as `-gamma/2`."""

    @property
    def name(self) -> str:
        """The number, or the text that it was read from."""
        return self.text or written(self.value)

    def __call__(self, given: DestinationInput) -> Tensor:
        """H_D = value."""
        return _constant(self.value, given)


@dataclass(frozen=True)
class BenignTriplet:
    """The hardness of a benign triplet of the same anchor, drawn by another sampler."""

    sampler: Sampler

    @property
    def name(self) -> str:
        """The sampler's letter."""
        return str(self.sampler)

    def __call__(self, given: DestinationInput) -> Tensor:
        """H_D,i = hardness of the i-th anchor's drawn triplet."""
        triplets = draw_triplets(
            self.sampler, given.embeddings, given.labels, generator=given.generator, margin=given.margin
        )
        return hardness(*triplets.gather(given.embeddings))


@dataclass(frozen=True)
class Balanced:
    """g_B(H_D; ξ) = H_D + ξ·(1 − l̄): a destination that rises as the loss falls."""

    base: Destination
    xi: float = 0.1
    """ξ, the maximum rise."""
    u: float | None = None
    """As in `Gradual`."""

    @property
    def name(self) -> str:
        """`g_B(M)`, with ξ if it is not 0.1."""
        return f"g_B({self.base.name})" if self.xi == 0.1 else f"g_B({self.base.name};xi={written(self.xi)})"

    def __call__(self, given: DestinationInput) -> Tensor:
        """H_D of the base, moved by ξ·(1 − l̄)."""
        return self.base(given) + self.xi * (1 - normalized_loss(given.previous_loss, self.u or given.margin))


def written(value: float) -> str:
    """Return the shortest text that reads back as `value`: 2, 0.1, 1e-07."""
    return repr(float(value)).removesuffix(".0")


def _constant(value: float, given: DestinationInput) -> Tensor:
    return given.embeddings.new_full((given.embeddings.shape[0] // 2,), value)


SYMBOLIC_CONSTANTS: Final[dict[str, Callable[[float], float]]] = {
    "-gamma": lambda margin: -margin,
    "-gamma/2": lambda margin: -margin / 2,
}
"""Constants in terms of γ."""
