"""Where a perturbation may begin: random points of its budget, by seed, image and restart alone."""

import numpy as np
import torch
from torch import Tensor

from trainer.attacks.pgd import Norm, PGDOptions, l2_norms, project


def random_starts(images: Tensor, options: PGDOptions, ids: Tensor, *, seed: int, restart: int) -> Tensor:
    """Draw a point of each image's budget (G,3,H,W): uniform in the L∞ box; in L2, of uniform radius.

    `ids` (G,) are the numbers that draws depend on, besides `seed` and `restart`.
    """
    noise = _each(images, ids, seed=seed, stream=restart, normal=options.norm is Norm.L2)
    if options.norm is Norm.LINF:
        moved = images + options.epsilon * (2 * noise - 1)
    else:
        radius = _each(images[:, :1, :1, :1], ids, seed=seed, stream=restart + 1_000_003, normal=False)
        moved = images + options.epsilon * radius * noise / _lengths(noise)
    return project(moved, images, epsilon=options.epsilon, norm=options.norm)


def random_noise(images: Tensor, options: PGDOptions, ids: Tensor, *, seed: int) -> Tensor:
    """Move each image (G,3,H,W) to a random edge of its budget: the baseline that an attack must beat."""
    noise = _each(images, ids, seed=seed, stream=2_000_003, normal=True)
    step = noise.sign() if options.norm is Norm.LINF else noise / _lengths(noise)
    return project(images + options.epsilon * step, images, epsilon=options.epsilon, norm=options.norm)


def _each(images: Tensor, ids: Tensor, *, seed: int, stream: int, normal: bool) -> Tensor:
    """Standard normal or uniform [0,1) numbers of the shape of `images`, a generator for each image."""
    shape = tuple(images.shape[1:])
    drawn = np.empty(images.shape, dtype=np.float32)
    for i, number in enumerate(ids.tolist()):
        rng = np.random.default_rng([seed, stream, int(number)])
        drawn[i] = (
            rng.standard_normal(shape, dtype=np.float32) if normal else rng.random(shape, dtype=np.float32)
        )
    return torch.from_numpy(drawn).to(images.device, images.dtype)


def _lengths(x: Tensor) -> Tensor:
    return l2_norms(x).clamp_min(1e-12)
