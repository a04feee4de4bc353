"""Random search with squares, for L∞ (Andriushchenko et al., *Square attack*, ECCV 2020)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.method import Search, SearchState, SearchTask
from hardrank.trainer.attacks.options import AttackError, option
from hardrank.trainer.attacks.pgd import Norm, ball_around

_STREAM: Final = 3_000_047
_HALVINGS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the budget at which the area of the squares halves (section 4.1 of the paper)."""


@dataclass(frozen=True, kw_only=True)
class SquareSearch(Search):
    """One query per step: a random square is set to ±ε in each channel, and kept if the loss falls."""

    NAME: ClassVar[str] = "square"

    area: float = option(
        0.3, minimum=0.001, maximum=1, unit="of the image", help="area of the first squares; later ones are smaller"
    )

    def steps(self, task: SearchTask) -> Iterator[SearchState]:
        """Begin with vertical stripes of ±ε. Raises `AttackError` for norms other than L∞."""
        if task.budget.norm is not Norm.LINF:
            raise AttackError("the square search needs an L∞ budget; choose the norm linf, or the search nes or spsa")
        oracle, images, epsilon = task.oracle, task.images, task.budget.epsilon
        ball = ball_around(images, epsilon=epsilon, norm=Norm.LINF)
        side = images.shape[-1]
        generators = [np.random.default_rng([task.seed, _STREAM, int(id)]) for id in task.ids.tolist()]
        stripes = np.stack([_signs(generator, (3, 1, side)) for generator in generators])
        rows = torch.arange(len(images), device=images.device)
        best = ball.project(images + epsilon * _tensor(stripes, images))
        here = oracle.query(best, rows)
        losses, embeddings = here.losses.clone(), here.embeddings.clone()
        yield SearchState(best, losses, embeddings, len(rows))
        for step in range(1, self.queries):
            window = square_side(self.area, step / self.queries, side)
            tried = ball.project(_with_squares(best, images, generators, window, epsilon))
            here = oracle.query(tried, rows)
            better = here.losses < losses
            best = torch.where(better.view(-1, 1, 1, 1), tried, best)
            losses = torch.where(better, here.losses, losses)
            embeddings = torch.where(better[:, None], here.embeddings, embeddings)
            yield SearchState(best, losses, embeddings, len(rows))


def square_side(area: float, spent: float, side: int) -> int:
    """Side of the squares in an image of `side` pixels, after a share `spent` of the budget."""
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
