"""The triplet samplers R M S D H: one triplet for each anchor of an SPC-2 batch (method: Triplet samplers).

Anchors are the even rows, their partners the odd ones. All samplers are pure functions of distances, labels and a
random generator, without a loop over anchors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

import torch
from torch import Tensor

from hardrank.models.errors import HardrankError
from hardrank.trainer.metric.losses import MARGIN


class TripletError(HardrankError):
    """A batch from which no triplet can be drawn."""


class Sampler(StrEnum):
    """The samplers, by their letters in the paper.

    The released code of the paper differs from its text in two of them, which `-released` reproduces.
    """

    RANDOM = "R"
    SEMIHARD = "M"
    SOFTHARD = "S"
    SOFTHARD_RELEASED = "S-released"
    """An anchor without a positive farther than the nearest negative may get itself as positive."""
    DISTANCE = "D"
    DISTANCE_RELEASED = "D-released"
    """Neither small nor large distances are bounded."""
    HARDEST = "H"


@dataclass(frozen=True)
class Triplets:
    """Rows of a batch: anchor, positive and negative, each (T,) int64."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor

    def __len__(self) -> int:
        return int(self.anchor.numel())

    def gather(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of `values` (B,…) for anchors, positives and negatives, each (T,…)."""
        return values[self.anchor], values[self.positive], values[self.negative]


@dataclass(frozen=True)
class _Batch:
    """Input of a sampler: distances of anchors to all rows (T,B), and which rows are of the anchor's class."""

    distances: Tensor
    same: Tensor
    """(T,B) bool: of the anchor's class, the anchor itself included."""
    itself: Tensor
    """(T,B) bool: the anchor itself."""
    to_partner: Tensor
    """(T,1): the distance to the partner."""
    partner: Tensor
    """(T,): the partner's row."""
    margin: float
    dimension: int


def draw_triplets(
    sampler: Sampler,
    embeddings: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    margin: float = MARGIN,
) -> Triplets:
    """Draw one triplet for each anchor of an SPC-2 batch.

    Args:
        sampler: How positive and negative are drawn.
        embeddings: (2T,D) on the unit sphere; anchors are the even rows, their partners the odd ones.
        labels: (2T,) classes.
        generator: Random generator on the CPU.
        margin: γ, which the semihard sampler uses.

    Returns:
        T triplets; none for a batch of a single class.

    Raises:
        TripletError: the rows are not pairs of the same class.
    """
    if embeddings.shape[0] % 2 or not torch.equal(labels[0::2], labels[1::2]):
        raise TripletError("not an SPC-2 batch: the rows must be pairs of the same class")
    rows = torch.arange(embeddings.shape[0], device=embeddings.device)
    anchors = rows[0::2]
    same = labels[anchors, None] == labels[None, :]
    if bool(same.all()):
        none = anchors[:0]
        return Triplets(none, none, none)
    embeddings = embeddings.detach()
    distances = torch.cdist(embeddings[anchors], embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    batch = _Batch(
        distances=distances,
        same=same,
        itself=anchors[:, None] == rows[None, :],
        to_partner=distances.gather(1, anchors[:, None] + 1),
        partner=anchors + 1,
        margin=margin,
        dimension=embeddings.shape[1],
    )
    positive, negative = _SAMPLERS[sampler](batch, generator)
    return Triplets(anchors, positive, negative)


def _uniform(allowed: Tensor, fallback: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one of the allowed columns for each row (T,); rows without any use `fallback` (T,B) bool."""
    allowed = torch.where(allowed.any(dim=1, keepdim=True), allowed, fallback)
    return _weighted(allowed.float(), generator)


def _weighted(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    draws = torch.multinomial(weights.cpu(), 1, generator=generator)
    return draws.squeeze(1).to(weights.device)


def _random(batch: _Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    return batch.partner, _uniform(~batch.same, ~batch.same, generator)


def _semihard(batch: _Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Negatives with d(a,p) < d(a,n) < d(a,p) + γ."""
    d, near = batch.distances, batch.to_partner
    return batch.partner, _uniform(~batch.same & (d > near) & (d < near + batch.margin), ~batch.same, generator)


def _softhard(
    batch: _Batch, generator: torch.Generator | None, *, itself_as_fallback: bool = False
) -> tuple[Tensor, Tensor]:
    """Negatives nearer than the farthest positive, positives farther than the nearest negative."""
    d, positives = batch.distances, batch.same & ~batch.itself
    farthest = d.masked_fill(~positives, -math.inf).amax(dim=1, keepdim=True)
    nearest = d.masked_fill(batch.same, math.inf).amin(dim=1, keepdim=True)
    negative = _uniform(~batch.same & (d < farthest), ~batch.same, generator)
    fallback = batch.same if itself_as_fallback else positives
    return _uniform(positives & (d > nearest), fallback, generator), negative


def _distance_weighted(
    batch: _Batch, generator: torch.Generator | None, *, bounded: bool = True
) -> tuple[Tensor, Tensor]:
    """Negatives with probability ∝ 1/q(d), q(d) ∝ d^(D−2)·(1 − d²/4)^((D−3)/2) (Wu et al. 2017, eq. 3).

    As in that paper's experiments, distances below 0.5 count as 0.5, and negatives at 1.4 or more are not drawn, since
    there the weights would be dominated by noise. Both bounds are left out without `bounded`.
    """
    d = batch.distances.clamp_min(0.5 if bounded else 1e-8)
    log_density = (batch.dimension - 2) * d.log() + (batch.dimension - 3) / 2 * (1 - d.square() / 4).clamp_min(
        1e-8
    ).log()
    allowed = ~batch.same & (d < 1.4) if bounded else ~batch.same
    allowed = torch.where(allowed.any(dim=1, keepdim=True), allowed, ~batch.same)
    log_weight = (-log_density).masked_fill(~allowed, -math.inf)
    return batch.partner, _weighted(torch.softmax(log_weight, dim=1), generator)


def _hardest(batch: _Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    return batch.partner, batch.distances.masked_fill(batch.same, math.inf).argmin(dim=1)


_SAMPLERS: Final[dict[Sampler, Callable[[_Batch, torch.Generator | None], tuple[Tensor, Tensor]]]] = {
    Sampler.RANDOM: _random,
    Sampler.SEMIHARD: _semihard,
    Sampler.SOFTHARD: _softhard,
    Sampler.SOFTHARD_RELEASED: partial(_softhard, itself_as_fallback=True),
    Sampler.DISTANCE: _distance_weighted,
    Sampler.DISTANCE_RELEASED: partial(_distance_weighted, bounded=False),
    Sampler.HARDEST: _hardest,
}
