"""Random search with squares for L∞, without gradients (Andriushchenko et al., *Square attack*, ECCV 2020)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.trainer.attacks.pgd import Norm, ball_around

AREA: Final = 0.3
"""The default area of the first squares, as a share of the image."""
_STREAM: Final = 3_000_047
_HALVINGS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the budget at which the area of the squares halves (section 4.1 of the paper)."""


SquareQuery = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What the search asks the model: images (G,3,S,S) → losses (G,) and embeddings (G,D)."""


@dataclass(frozen=True)
class SquareState:
    """The best images so far; a row for each."""

    images: Tensor
    """(G,3,S,S)."""
    losses: Tensor
    """(G,)."""
    embeddings: Tensor
    """(G,D)."""


def square_steps(
    query: SquareQuery, images: Tensor, *, epsilon: float, ids: Tensor, queries: int, area: float = AREA, seed: int
) -> Iterator[SquareState]:
    """Set a random square of each image to ±ε in each channel, and keep it if the loss falls.

    Args:
        query: returns losses and embeddings of images.
        images: (G,3,S,S) in [0,1].
        epsilon: the L∞ budget.
        ids: (G,) numbers that the draws depend on, besides the seed.
        queries: for each image; one a step.
        area: of the first squares, as a share of the image.
        seed: of the draws.

    Yields:
        The state after each query. The first image has vertical stripes of ±ε.
    """
    ball = ball_around(images, epsilon=epsilon, norm=Norm.LINF)
    side = images.shape[-1]
    generators = [np.random.default_rng([seed, _STREAM, int(id)]) for id in ids.tolist()]
    stripes = np.stack([_signs(generator, (3, 1, side)) for generator in generators])
    best = ball.project(images + epsilon * _tensor(stripes, images))
    losses, embeddings = query(best)
    yield SquareState(best, losses, embeddings)
    for step in range(1, queries):
        window = square_side(area, step / queries, side)
        tried = ball.project(_with_squares(best, images, generators, window, epsilon))
        loss, found = query(tried)
        better = loss < losses
        best = torch.where(better.view(-1, 1, 1, 1), tried, best)
        losses = torch.where(better, loss, losses)
        embeddings = torch.where(better[:, None], found, embeddings)
        yield SquareState(best, losses, embeddings)


def square_side(area: float, spent: float, side: int) -> int:
    """Return the side of the squares in an image of `side` pixels, after a share `spent` of the queries."""
    halvings = sum(spent > at for at in _HALVINGS)
    return min(side, max(1, round(math.sqrt(area / 2**halvings) * side)))


def _with_squares(
    best: Tensor, images: Tensor, generators: list[np.random.Generator], window: int, epsilon: float
) -> Tensor:
    """Return `best` (G,3,S,S) with a square of each image set to ±ε around `images`, a sign for each channel."""
    tried = best.clone()
    room = images.shape[-1] - window + 1
    for i, generator in enumerate(generators):
        top, left = generator.integers(0, room, 2).tolist()
        signs = _tensor(_signs(generator, (3, 1, 1)), images)
        part = (i, slice(None), slice(top, top + window), slice(left, left + window))
        tried[part] = images[part] + epsilon * signs
    return tried


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, like.dtype)
