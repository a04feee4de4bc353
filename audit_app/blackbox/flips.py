"""Search by flipping the signs of blocks, for L∞ budgets and images of 8 bits.

Every pixel is moved by ε up or down. Each query flips the sign of one block of one channel, and the flip is kept unless
the loss rises. The blocks become smaller, down to a grid of `resolution` cells, and begin again with the largest. The
idea to halve regions comes from Al-Dujaili & O'Reilly, *Sign bits are all you need for black-box attacks*, ICLR 2020;
searching the corners of the budget from Andriushchenko et al., *Square attack*, ECCV 2020.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.method import SearchState
from hardrank.audit_app.blackbox.oracle import OracleAnswer

FlipQuery = Callable[[Tensor, Tensor], OracleAnswer]
"""Images (n,3,S,S), variants of the attacked images `rows` (n,) → their losses."""

LEVELS: Final = 255
_STREAM: Final = 3_000_061
_COARSEST: Final = 2
"""Cells of the coarsest grid along a side."""


def flip_steps(
    query: FlipQuery, images: Tensor, *, epsilon: float, ids: Tensor, queries: Tensor, resolution: int, seed: int
) -> Iterator[SearchState]:
    """Search within ε of each image.

    Images whose pixels are multiples of 1/255 stay so: ε is rounded down to a multiple of 1/255.

    Args:
        query: Returns losses of at least 0; an image whose loss is 0 is finished.
        images: (G,3,S,S) in [0,1].
        epsilon: The L∞ budget.
        ids: (G,) numbers that the draws depend on, besides the seed.
        queries: (G,) at least 1: the budget of each image. The first query is the image itself.
        resolution: Cells of the finest grid along a side.
        seed: Of the draws.

    Yields:
        The best images after each query.
    """
    rows = torch.arange(len(images), device=images.device)
    left, answer = queries - 1, query(images, rows)
    best, losses, embeddings = images.clone(), answer.losses.clone(), answer.embeddings.clone()
    yield SearchState(best, losses, embeddings, int((left > 0).sum()))
    reach = int(epsilon * LEVELS + 1e-4) / LEVELS
    if reach == 0:
        return
    walks = [_BlockWalk(np.random.default_rng([seed, _STREAM, int(id)]), images.shape[-1], resolution) for id in ids]
    signs = torch.stack([torch.from_numpy(walk.first_signs()) for walk in walks]).to(images.device, images.dtype)
    current = torch.full_like(losses, torch.inf)
    while True:
        moving = rows[(left > 0) & (losses > 0)]
        if moving.numel() == 0:
            return
        tried = signs[moving]
        for place, row in enumerate(moving.tolist()):
            if torch.isfinite(current[row]):
                tried[place][walks[row].next()] *= -1
        corner = (images[moving] + reach * tried).clamp_(0, 1)
        answer = query(corner, moving)
        left[moving] -= 1
        kept = answer.losses <= current[moving]
        signs[moving[kept]], current[moving[kept]] = tried[kept], answer.losses[kept]
        better = answer.losses < losses[moving]
        new = moving[better]
        best, losses, embeddings = best.clone(), losses.clone(), embeddings.clone()
        best[new], losses[new], embeddings[new] = corner[better], answer.losses[better], answer.embeddings[better]
        yield SearchState(best, losses, embeddings, int(((left > 0) & (losses > 0)).sum()))


class _BlockWalk:
    """The blocks of one image in the order in which they are flipped: grids of 2, 4, 8 … cells, each shuffled."""

    def __init__(self, generator: np.random.Generator, side: int, resolution: int) -> None:
        self._generator = generator
        self._side = side
        finest = min(resolution, side)
        self._grids = [cells for step in range(12) if (cells := _COARSEST << step) < finest] + [finest]
        self._turn = 0
        self._pending: list[tuple[int, slice, slice]] = []

    def first_signs(self) -> np.ndarray:
        """Return vertical stripes (3,S,S) of ±1, as wide as the cells of the finest grid."""
        cells = self._generator.integers(0, 2, (3, 1, self._grids[-1])).astype(np.float32) * 2 - 1
        columns = np.arange(self._side) * self._grids[-1] // self._side
        return np.repeat(cells[:, :, columns], self._side, axis=1)

    def next(self) -> tuple[int, slice, slice]:
        """Return the next block: channel, rows, columns."""
        if not self._pending:
            cells = self._grids[self._turn % len(self._grids)]
            self._turn += 1
            edges = (np.arange(cells + 1) * self._side // cells).tolist()
            spans = [slice(begin, end) for begin, end in pairwise(edges)]
            blocks = [(channel, y, x) for channel in range(3) for y in spans for x in spans]
            self._pending = [blocks[place] for place in self._generator.permutation(len(blocks))]
        return self._pending.pop()
