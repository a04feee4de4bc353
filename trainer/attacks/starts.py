"""Random starts, noise and numbers for each image; they depend on seed, image and restart only."""

import numpy as np
import torch
from torch import Tensor

from hardrank.trainer.attacks.pgd import Norm, PGDOptions, ball_around


def random_starts(images: Tensor, options: PGDOptions, ids: Tensor, *, seed: int, restart: int) -> Tensor:
    """Draw a point of each image's budget (G,3,H,W): uniform in the L∞ box; in L2, of uniform radius.

    The draw depends on `ids` (G,), `seed` and `restart`.
    """
    ball = ball_around(images, epsilon=options.epsilon, norm=options.norm)
    if options.norm is Norm.LINF:
        offset = 2 * _each(images, ids, seed=seed, stream=restart, normal=False) - 1
    else:
        radius = _each(images[:, :1, :1, :1], ids, seed=seed, stream=restart + 1_000_003, normal=False)
        offset = radius * ball.direction(_each(images, ids, seed=seed, stream=restart, normal=True))
    return ball.project(images + options.epsilon * offset)


def random_noise(images: Tensor, options: PGDOptions, ids: Tensor, *, seed: int) -> Tensor:
    """Move each image (G,3,H,W) to a random edge of its budget: the baseline that an attack must beat."""
    ball = ball_around(images, epsilon=options.epsilon, norm=options.norm)
    direction = ball.direction(_each(images, ids, seed=seed, stream=2_000_003, normal=True))
    return ball.project(images + options.epsilon * direction)


def random_numbers(images: Tensor, ids: Tensor, *, seed: int) -> Tensor:
    """Draw uniform numbers in [0,1) of the shape of `images` (G,3,H,W); they depend on `ids` (G,) and `seed`."""
    return _each(images, ids, seed=seed, stream=3_000_017, normal=False)


def _each(images: Tensor, ids: Tensor, *, seed: int, stream: int, normal: bool) -> Tensor:
    """Standard normal or uniform [0,1) numbers of the shape of `images`, a generator for each image."""
    shape = tuple(images.shape[1:])
    drawn = np.empty(images.shape, dtype=np.float32)
    for i, number in enumerate(ids.tolist()):
        rng = np.random.default_rng([seed, stream, int(number)])
        drawn[i] = rng.standard_normal(shape, dtype=np.float32) if normal else rng.random(shape, dtype=np.float32)
    return torch.from_numpy(drawn).to(images.device, images.dtype)
