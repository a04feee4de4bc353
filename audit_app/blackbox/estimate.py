"""Descent along gradients that are estimated from differences: the common part of NES and SPSA."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.blackbox.method import Search, SearchState, SearchTask
from hardrank.audit_app.blackbox.oracle import Oracle
from hardrank.trainer.attacks.options import AttackError, option
from hardrank.trainer.attacks.pgd import ball_around
from hardrank.trainer.attacks.starts import random_starts

_START: Final = 0
"""The draw of the random start; a white-box run's first restart draws the same."""


@dataclass(frozen=True, kw_only=True)
class EstimatedDescent(Search):
    """Projected descent on estimated gradients: each step costs two queries per pair, and one for the new image."""

    STREAM: ClassVar[int]
    """Number that separates the random draws of the methods."""

    pairs: int = option(
        15, minimum=1, maximum=10_000, unit="pairs", help="random directions of an estimate; each costs two queries"
    )
    sigma: float = option(
        4 / 255, minimum=1e-5, maximum=1, unit="of pixels in [0,1]", help="σ, the distance of a query from the image"
    )
    alpha: float = option(2 / 255, minimum=0, unit="of pixels in [0,1]", help="α, the length of a step")
    momentum: float = option(0.5, minimum=0, maximum=0.99, help="share of the previous direction in the next")
    grain: int = option(
        4,
        minimum=1,
        maximum=64,
        unit="pixels",
        help="side of the squares in which directions are constant; 1: pixels",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < self.least_queries:
            raise AttackError(
                f"{self.NAME}: {self.queries} queries are too few for a step of {self.pairs} pairs, which takes "
                f"{2 * self.pairs + 1} after the first; give more queries or fewer pairs"
            )

    @property
    def least_queries(self) -> int:
        """Those of one step, the start and the new image."""
        return 2 * self.pairs + 2

    @staticmethod
    @abstractmethod
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw directions whose coordinates are independent, of mean 0 and variance 1 → float32 of `shape`."""

    def estimate(self, oracle: Oracle, x: Tensor, rows: Tensor, generators: list[np.random.Generator]) -> Tensor:
        """Estimate the loss's gradient at `x` (A,3,S,S), variants of the images `rows` (A,) → (A,3,S,S).

        The mean over directions u of (L(x + σu) − L(x − σu)) / 2σ · u, whose expectation is the gradient up to terms
        in σ² (with squares: its mean over each square, times their size). Queries stay within [0,1].
        """
        at_once = max(1, oracle.chunk // (2 * len(x)))
        total = torch.zeros_like(x)
        for begin in range(0, self.pairs, at_once):
            count = min(at_once, self.pairs - begin)
            u = self._directions(x, generators, count)
            pair = torch.stack([x[:, None] + self.sigma * u, x[:, None] - self.sigma * u], dim=1).clamp_(0, 1)
            answer = oracle.query(pair.flatten(0, 2), rows.repeat_interleave(2 * count))
            forth, back = answer.losses.view(len(x), 2, count).unbind(1)
            slope = (forth - back) / (2 * self.sigma)
            total += (slope[..., None, None, None] * u).sum(1)
        return total / self.pairs

    def steps(self, task: SearchTask) -> Iterator[SearchState]:
        """Begin at a random point of the budget, since some objectives are flat at the benign image."""
        oracle, images = task.oracle, task.images
        ball = ball_around(images, epsilon=task.budget.epsilon, norm=task.budget.norm)
        rows = torch.arange(len(images), device=images.device)
        x = random_starts(images, task.budget, task.ids, seed=task.seed, restart=_START)
        here = oracle.query(x, rows)
        best, losses, embeddings = x.clone(), here.losses.clone(), here.embeddings.clone()
        velocity = torch.zeros_like(x)
        yield SearchState(best, losses, embeddings, len(rows))
        cost = 2 * self.pairs + 1
        for step in range((self.queries - 1) // cost):
            if rows.numel() == 0:
                return
            generators = [
                np.random.default_rng([task.seed, self.STREAM, int(id), step]) for id in task.ids[rows].tolist()
            ]
            gradient = self.estimate(oracle, x[rows], rows, generators)
            felt = gradient.flatten(1).any(1)  # no difference anywhere: the goal is reached, or the loss is flat
            rows, gradient = rows[felt], gradient[felt]
            if rows.numel() == 0:
                return
            scale = gradient.flatten(1).abs().mean(1).view(-1, 1, 1, 1)
            velocity[rows] = self.momentum * velocity[rows] + (1 - self.momentum) * gradient / scale
            inside = ball.take(rows)
            x[rows] = inside.project(x[rows] - self.alpha * inside.direction(velocity[rows].clone()))
            here = oracle.query(x[rows], rows)
            better = here.losses < losses[rows]
            won = rows[better]
            best, losses, embeddings = best.clone(), losses.clone(), embeddings.clone()
            best[won], losses[won], embeddings[won] = x[won], here.losses[better], here.embeddings[better]
            yield SearchState(best, losses, embeddings, int(rows.numel()))

    def _directions(self, x: Tensor, generators: list[np.random.Generator], count: int) -> Tensor:
        """Draw `count` directions for each image, from its own generator → (A,count,3,S,S)."""
        side = x.shape[-1]
        coarse = -(-side // self.grain)
        drawn = np.stack([self.draw(generator, (count, 3, coarse, coarse)) for generator in generators])
        u = torch.from_numpy(drawn).to(x.device, x.dtype)
        if self.grain == 1:
            return u
        return F.interpolate(u.flatten(0, 1), scale_factor=float(self.grain), mode="nearest")[..., :side, :side].view(
            len(x), count, 3, side, side
        )
