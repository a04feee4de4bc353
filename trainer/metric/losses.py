"""Hardness of triplets, the triplet loss and the ICS loss (method: Setting, Hardness manipulation, ICS)."""

from torch import Tensor
from torch.nn import functional as F

MARGIN = 0.2
"""γ, the margin of the triplet loss in all published settings."""

PAIRWISE_EPS = 1e-6
"""Added to each coordinate difference, as the reference implementation's distance does."""


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distance of the rows of `x` and `y` (…,D), in [0,2] on the sphere."""
    return F.pairwise_distance(x, y, eps=PAIRWISE_EPS)


def hardness(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return H(A,P,N) = d(A,P) − d(A,N) of embeddings (…,D), in [−2,2]."""
    return distance(anchor, positive) - distance(anchor, negative)


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float = MARGIN) -> Tensor:
    """Return L_T = mean max(0, H + γ) of embeddings (T,D); the margin may be 0, as in ICS."""
    return (hardness(anchor, positive, negative) + margin).clamp_min(0).mean()


def ics_loss(anchor: Tensor, adversarial_anchor: Tensor, positive: Tensor, *, margin: float = 0.0) -> Tensor:
    """Return the intra-class structure loss, mean max(0, d(a,ã) − d(a,p) + margin), without its weight λ."""
    return triplet_loss(anchor, adversarial_anchor, positive, margin=margin)
