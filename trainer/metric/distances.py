"""Distances and rankings of embeddings on the unit sphere, as pure tensor functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hardrank.models.errors import HardrankError

ABSENT: Final = -1
"""The row of a query that has no copy of its own in the gallery."""

CHUNK_ELEMENTS: Final = 1 << 22
"""How many distances are held at once: 16 MiB in float32."""

_SPHERE_TOLERANCE: Final = 1e-2


class RetrievalError(HardrankError):
    """Embeddings or labels that cannot be ranked."""


def check_sphere(embeddings: Tensor, *, what: str = "embeddings") -> None:
    """Raise `RetrievalError` unless `embeddings` is (N,D), finite, with rows of norm 1."""
    if embeddings.ndim != 2:
        raise RetrievalError(f"{what} must have the shape (N,D), not {tuple(embeddings.shape)}")
    norms = torch.linalg.vector_norm(embeddings, dim=1)
    wrong = (norms - 1).abs().le(_SPHERE_TOLERANCE).logical_not()  # also true for NaN
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise RetrievalError(
            f"{what}: {int(wrong.sum())} of {len(embeddings)} rows are not on the unit sphere, the first is "
            f"row {row} with norm {norms[row].item():g}; normalize them to length 1"
        )


@dataclass(frozen=True)
class Centered:
    """Items of a gallery relative to their mean.

    A matrix product of the embeddings themselves has an error of about 1e-7 in d², which exceeds the d² of embeddings
    that have collapsed to one direction. Relative to their mean, the error is as small as they are.
    """

    mean: Tensor
    """(D,)"""
    items: Tensor
    """(N,D)"""
    squares: Tensor
    """|x|² of the items (N,)."""

    @classmethod
    def of(cls, gallery: Tensor) -> "Centered":
        """Center `gallery` (N,D)."""
        mean = gallery.mean(0)
        items = gallery - mean
        return cls(mean, items, items.square().sum(1))

    def distances(self, points: Tensor) -> Tensor:
        """Return the Euclidean distances of `points` (Q,D) to the items, as (Q,N), differentiable in `points`.

        One matrix product: d² = |q|² − 2q·x + |x|². d² has a floor, at which the gradient is zero: below it the
        distance is rounding error, and its gradient could be longer than a unit vector.
        """
        moved = points - self.mean
        squared = torch.addmm(self.squares, moved, self.items.T, alpha=-2) + moved.square().sum(1)[:, None]
        eps = torch.finfo(squared.dtype).eps
        floor = (8 * eps * self.squares.amax()).clamp_min((8 * eps) ** 2) if len(self.squares) else (8 * eps) ** 2
        return squared.clamp_min(floor).sqrt()


def pairwise_distances(points: Tensor, gallery: Tensor) -> Tensor:
    """Return the Euclidean distances of `points` (Q,D) to `gallery` (N,D), as (Q,N), differentiable in `points`."""
    return Centered.of(gallery).distances(points)


def row_distances(points: Tensor, items: Tensor) -> Tensor:
    """Return the Euclidean distance of each row of `points` (Q,D) to that of `items` (Q,D).

    The floor, at which the gradient is zero, is the rounding error of the embeddings themselves.
    """
    squared = (points - items).square().sum(1)
    return squared.clamp_min((8 * torch.finfo(squared.dtype).eps) ** 2).sqrt()


def leave_out(distances: Tensor, own: Tensor) -> Tensor:
    """Return `distances` (Q,N) with infinity at each query's own row, `own` (Q,) or `ABSENT`.

    All self-matches are left out here, of benign and attacked queries alike.
    """
    masked = distances.clone()
    present = own.ne(ABSENT).nonzero().squeeze(1)
    masked[present, own[present]] = torch.inf
    return masked


def nearest(points: Tensor, gallery: Tensor, own: Tensor, k: int) -> Tensor:
    """Return the `k` rows of `gallery` (N,D) nearest to each of `points` (Q,D), without its own row, as (Q,k).

    Raises `RetrievalError` if the gallery has fewer than `k` other items.
    """
    others = len(gallery) - int(own.ne(ABSENT).any())
    if not 0 < k <= others:
        raise RetrievalError(f"cannot find the {k} nearest items in a gallery of {others} other items")
    found = [
        leave_out(distances, own[rows]).topk(k, largest=False).indices
        for rows, distances in distance_chunks(points, gallery)
    ]
    return torch.cat(found) if found else own.new_empty((0, k))


def distance_chunks(points: Tensor, gallery: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of `points` (Q,D) with their distances to `gallery` (N,D), in chunks that fit in memory."""
    size = max(1, CHUNK_ELEMENTS // max(1, len(gallery)))
    centered = Centered.of(gallery)
    for start in range(0, len(points), size):
        rows = slice(start, min(start + size, len(points)))
        yield rows, centered.distances(points[rows])


def recall_at_1(points: Tensor, gallery: Tensor, labels: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """Return whether the item nearest to each of `points` (Q,D), without its own row, has the label `wanted` (Q,)."""
    return labels[nearest(points, gallery, own, 1).squeeze(1)].eq(wanted)


def mean_cosine(embeddings: Tensor) -> float:
    """Return the mean cosine of all pairs of different rows of `embeddings` (N,D) on the sphere, in [−1,1].

    In closed form: (|Σx|² − Σ|x|²) / N(N−1). NaN for fewer than two rows.
    """
    count = len(embeddings)
    if count < 2:
        return float("nan")
    whole = embeddings.sum(0, dtype=torch.float64).square().sum() - embeddings.square().sum(dtype=torch.float64)
    return float(whole) / (count * (count - 1))
