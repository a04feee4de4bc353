"""Search for the signs of a perturbation with a linear model of the loss, for L∞ budgets and images of 8 bits.

Every pixel is moved by ε up or down: s ∈ {−1,1}^d. Near the best signs b so far, the search assumes
y(s) − y(b) = ⟨g, s − b⟩ + noise, where y is the probit of the loss. The slope g has a Gaussian prior: a sum of
two-dimensional cosines, those of low frequency being the largest, in a window at the center of the image. Each query is
a Thompson sample: a slope is drawn from the posterior given the last queries, and the pixels are flipped whose flip it
expects most of. Their share grows after successes and shrinks after failures.

Sources: low frequencies from Guo et al., *Low frequency adversarial perturbation*, UAI 2019; a Gaussian process that
chooses queries from Ru et al., *BayesOpt adversarial attack*, ICLR 2020; sampling its posterior from Wilson et al.,
*Efficiently sampling functions from Gaussian process posteriors*, ICML 2020 (Matheron's rule); the region that grows
and shrinks from Eriksson et al., *Scalable global optimization via local Bayesian optimization*, NeurIPS 2019; signs
from Al-Dujaili & O'Reilly, *Sign bits are all you need for black-box attacks*, ICLR 2020.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.blackbox.method import SearchState
from hardrank.audit_app.blackbox.oracle import OracleAnswer

SignQuery = Callable[[Tensor, Tensor], OracleAnswer]
"""Images (n,3,S,S), variants of the attacked images `rows` (n,) → their losses in [0,1]."""

LEVELS: Final = 255
_STREAM: Final = 3_000_061
_ROUND: Final = 8
"""Queries of an image between two updates of the posterior."""
_FIRST: Final = 16
"""Queries that are drawn from the prior."""
_MEMORY: Final = 512
"""Last queries from which the posterior is computed."""
NOISE: Final = 0.12
"""Variance of what is not linear, as a share of the prior variance of the same difference."""
_WINDOW: Final = 0.3
"""Standard deviation of the window, as a share of the image's side."""
_CORNER: Final = 4.0
"""Frequency, in half periods a side, above which the prior falls."""
_SHARE: Final = 0.1
"""Share of the pixels that is flipped at first."""
_SHARES: Final = (0.0005, 0.4)
_GROWTH: Final = 1.3
"""Of the share after a success."""
_SHRINKAGE: Final = 0.985
"""Of the share for each query of a round without success."""
_SPREAD: Final = 0.7
"""Shares of a round differ by up to e to this power from their center."""
_LEAST_POWER: Final = 1e-12
"""Of slopes, so that the search goes on where the loss is flat."""
_LEAST_LOSS: Final = 5e-4
"""Losses nearer to 0 or 1 have the same probit."""


def sign_steps(
    query: SignQuery, images: Tensor, *, epsilon: float, ids: Tensor, queries: Tensor, resolution: int, seed: int
) -> Iterator[SearchState]:
    """Search within ε of each image.

    Images whose pixels are multiples of 1/255 stay so: ε is rounded down to a multiple of 1/255.

    Args:
        query: Returns losses in [0,1]; an image whose loss is 0 is finished.
        images: (G,3,S,S) in [0,1].
        epsilon: The L∞ budget.
        ids: (G,) numbers that the draws depend on, besides the seed.
        queries: (G,) at least 1: the budget of each image. The first query is the image itself.
        resolution: Number of cosines along a side that the slope consists of.
        seed: Of the draws.

    Yields:
        The best images after each round of queries.
    """
    rows = torch.arange(len(images), device=images.device)
    left, answer = queries - 1, query(images, rows)
    best, losses, embeddings = images.clone(), answer.losses.clone(), answer.embeddings.clone()
    yield SearchState(best, losses, embeddings, int((left > 0).sum()))
    reach = int(epsilon * LEVELS + 1e-4) / LEVELS
    if reach == 0:
        return
    prior = slope_prior(images.shape[-1], min(resolution, images.shape[-1]))
    models = [SignModel(np.random.default_rng([seed, _STREAM, int(id)]), prior) for id in ids]
    while (moving := rows[(left > 0) & (losses > 0)]).numel():
        counts = left[moving].clamp(max=_ROUND)
        signs = [models[row].propose(count) for row, count in zip(moving.tolist(), counts.tolist(), strict=True)]
        asked = moving.repeat_interleave(counts)
        tried = (images[asked] + reach * torch.cat(signs).to(images.device)).clamp_(0, 1)
        answer = query(tried, asked)
        left[moving] -= counts
        best, losses, embeddings = best.clone(), losses.clone(), embeddings.clone()
        begin = 0
        for row, one in zip(moving.tolist(), signs, strict=True):
            found = answer.losses[begin : begin + len(one)]
            models[row].observe(one, found.cpu())
            lowest = int(found.argmin())
            if found[lowest] < losses[row]:
                best[row], losses[row] = tried[begin + lowest], found[lowest]
                embeddings[row] = answer.embeddings[begin + lowest]
            begin += len(one)
        yield SearchState(best, losses, embeddings, int(((left > 0) & (losses > 0)).sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class SlopePrior:
    """The prior of slopes: `slopes` of coefficients (n,F) that are independent and of variance 1."""

    cosines: Tensor
    """(m,S), orthonormal."""
    amplitudes: Tensor
    """(m,m): standard deviation of each product of two cosines."""
    window: Tensor
    """(S,S)."""

    @property
    def size(self) -> int:
        """F, number of coefficients."""
        return 3 * self.amplitudes.numel()

    def slopes(self, coefficients: Tensor) -> Tensor:
        """Return the slopes (n,3,S,S) of coefficients (n,F)."""
        scaled = coefficients.view(-1, 3, *self.amplitudes.shape) * self.amplitudes
        return self.window * (self.cosines.T @ scaled @ self.cosines)

    def features(self, signs: Tensor) -> Tensor:
        """Return the features (n,F) of signs (n,3,S,S): ⟨slopes(w), s⟩ = ⟨w, features(s)⟩."""
        return (self.amplitudes * (self.cosines @ (self.window * signs) @ self.cosines.T)).flatten(1)


@cache
def slope_prior(side: int, cosines: int) -> SlopePrior:
    """Return the prior for images of `side` pixels, with the lowest `cosines` frequencies along a side."""
    frequencies, pixels = torch.arange(cosines), torch.arange(side) + 0.5
    rows = torch.cos(torch.pi * frequencies[:, None] * pixels / side) * (2 / side) ** 0.5
    rows[0] *= 0.5**0.5
    power = 1 / (1 + (frequencies[:, None] ** 2 + frequencies**2) / _CORNER**2)
    bell = torch.exp(-((pixels - side / 2) ** 2) / (2 * (_WINDOW * side) ** 2))
    return SlopePrior(cosines=rows, amplitudes=power.sqrt(), window=bell[:, None] * bell)


class SignModel:
    """What the losses of one image's queries tell about the slope."""

    def __init__(self, generator: np.random.Generator, prior: SlopePrior) -> None:
        self._generator = generator
        self._prior = prior
        self._features = torch.zeros(0, prior.size)
        self._probits = torch.zeros(0)
        self._share = _SHARE
        self._shares = torch.zeros(0)
        self._lowest = torch.tensor(torch.inf)
        self._seen = 0

    def propose(self, count: int) -> Tensor:
        """Return signs (count,3,S,S) of ±1 that are worth a query."""
        if self._seen < _FIRST:
            return torch.where(self._prior.slopes(self._normal(count, self._prior.size)) >= 0, 1.0, -1.0)
        gains = (self._prior.slopes(self.sample(count)) * self._best).flatten(1)
        spread = torch.from_numpy(self._generator.uniform(-_SPREAD, _SPREAD, count))
        self._shares = (self._share * spread.exp()).clamp(*_SHARES)
        signs = self._best.expand(count, *self._best.shape).clone()
        for one, gain, share in zip(signs.view(count, -1), gains, self._shares.tolist(), strict=True):
            highest = gain.topk(max(1, int(share * len(gain))))
            one[highest.indices[highest.values > 0]] *= -1
        return signs

    def observe(self, signs: Tensor, losses: Tensor) -> None:
        """Learn the losses (n,) of the signs (n,3,S,S) that were proposed last."""
        features = self._prior.features(signs)
        probits = torch.special.ndtri(losses.float().clamp(_LEAST_LOSS, 1 - _LEAST_LOSS))
        self._features = torch.cat([self._features, features])[-_MEMORY:]
        self._probits = torch.cat([self._probits, probits])[-_MEMORY:]
        lowest = int(losses.argmin())
        success = bool(losses[lowest] < self._lowest)
        if self._seen >= _FIRST:
            share = (self._share + float(self._shares[lowest])) / 2 * _GROWTH
            self._share = share if success else self._share * _SHRINKAGE ** len(losses)
            self._share = min(max(self._share, _SHARES[0]), _SHARES[1])
        if losses[lowest] <= self._lowest:
            self._lowest, self._best = losses[lowest].clone(), signs[lowest]
            self._center, self._level = features[lowest], probits[lowest]
        self._seen += len(losses)

    def sample(self, count: int) -> Tensor:
        """Draw coefficients (count,F) from the posterior of the slope."""
        differences, changes = self._features - self._center, self._probits - self._level
        covariance = differences @ differences.T
        noise = NOISE * covariance.diagonal() + 1e-4 * covariance.diagonal().mean()
        factor = torch.linalg.cholesky(covariance + torch.diag(noise))
        power = changes @ torch.cholesky_solve(changes[:, None], factor)[:, 0] / len(changes)
        scale = power.clamp(min=_LEAST_POWER).sqrt()
        drawn = scale * self._normal(count, self._prior.size)
        errors = scale * noise.sqrt() * self._normal(count, len(changes))
        unexplained = changes - drawn @ differences.T - errors
        posterior: Tensor = drawn + torch.cholesky_solve(unexplained.T, factor).T @ differences
        return posterior

    def _normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self._generator.standard_normal(shape, dtype=np.float32))
