"""Certified Recall@1: images that keep their class under every L2 perturbation up to a radius (randomized smoothing).

A network φ is queried with an image x and Gaussian noise η of standard deviation σ per pixel; the gallery stays as φ
embeds it. Two smoothed systems are certified from the same samples:

- **vote** (Cohen et al., 2019): each noisy copy votes for the class of its nearest item. If the class of x has the
  probability p > 1/2, it keeps the majority within the radius R = σ Φ⁻¹(p). A lower Clopper-Pearson bound takes the
  place of p.
- **embedding** (as in RetrievalGuard, Wu et al., 2022): the query is the mean embedding g(x) = E φ(x + η). For two
  items a and b on the sphere, u = (a − b)/|a − b| and h(x) = (1 + u·g(x))/2 is the mean of a function with values in
  [0,1], so σ Φ⁻¹(h) is 1-Lipschitz (Salman et al., 2019); a is nearer than b while h > 1/2. So an item of the class of
  x stays nearer than all items of other classes within R = min over b of σ Φ⁻¹(h). Lower empirical Bernstein bounds
  (Maurer & Pontil, 2009), which hold for all b together, take the place of h.

Both hold with confidence 1 − α for each image.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta, norm
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Gallery
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.metric.distances import leave_out, pairwise_distances

NOT_CERTIFIED: Final = -1.0
"""The radius of an image that is not certified even without a perturbation."""


@dataclass(frozen=True, kw_only=True)
class SmoothingOptions:
    """How images are certified. Raises `AttackError` for invalid values."""

    sigma: float = 0.25
    """σ, standard deviation of the noise, for pixels in [0,1]."""
    samples: int = 1000
    """Noisy copies of each image from which the bounds are computed."""
    selection: int = 100
    """Noisy copies before them, which only select the item whose place is certified."""
    alpha: float = 0.001
    """α, the probability, for each image, that its radius is too large."""

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.samples >= 2 and self.selection >= 1 and 0 < self.alpha < 1):
            raise AttackError(
                f"σ is {self.sigma:g}, samples {self.samples}, selection {self.selection}, α {self.alpha:g}; give σ "
                "above 0, at least 2 samples, at least 1 for the selection, and α between 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class CertifiedRadii:
    """The radii of one image, L2 for pixels in [0,1]; `NOT_CERTIFIED` if there is none."""

    vote: float
    """Within it the class of most noisy copies' nearest item is that of the image."""
    embedding: float
    """Within it the item nearest to the mean embedding is of the class of the image."""


@torch.no_grad()
def certify_image(
    embed: Embed,
    image: Tensor,
    gallery: Gallery,
    row: int,
    options: SmoothingOptions,
    *,
    seed: int,
    batch: int = 128,
) -> CertifiedRadii:
    """Certify Recall@1 of one image of the gallery, whose own copy is left out.

    Args:
        embed: The network, images (n,3,H,W) → embeddings (n,D) on the unit sphere, in evaluation mode.
        image: (3,H,W) in [0,1].
        gallery: The items, embedded by `embed`.
        row: The image's row in the gallery.
        options: σ, number of samples, confidence.
        seed: Of the noise, which depends on `seed` and `row` alone.
        batch: Noisy copies embedded at a time; it changes results only by rounding.
    """
    rng = np.random.default_rng([seed, row])
    parts, left = [], options.selection + options.samples
    while left:
        count = min(batch, left)
        noise = torch.from_numpy(rng.standard_normal((count, *image.shape), dtype=np.float32)).to(image.device)
        parts.append(embed(image + options.sigma * noise))
        left -= count
    return certify_samples(torch.cat(parts), gallery, row, options)


def certify_samples(samples: Tensor, gallery: Gallery, row: int, options: SmoothingOptions) -> CertifiedRadii:
    """Compute the radii of an image from the embeddings of its noisy copies, (selection + samples, D)."""
    used = samples[options.selection :]
    own = torch.full((len(used),), row, device=used.device)
    nearest = leave_out(pairwise_distances(used, gallery.embeddings), own).argmin(1)
    hits = int(gallery.labels[nearest].eq(gallery.labels[row]).sum())
    vote = certified_radius(clopper_pearson(hits, len(used), options.alpha), options.sigma)
    return CertifiedRadii(vote=vote, embedding=_embedding_radius(samples, gallery, row, options))


def _embedding_radius(samples: Tensor, gallery: Gallery, row: int, options: SmoothingOptions) -> float:
    same = gallery.labels.eq(gallery.labels[row])
    others = gallery.embeddings[~same].double()
    same[row] = False
    items = gallery.embeddings[same].double()
    if not len(items):
        return NOT_CERTIFIED
    chosen = items[(items @ samples[: options.selection].double().mean(0)).argmax()]
    if not len(others):
        return float("inf")
    direction = torch.nn.functional.normalize(chosen - others, dim=1)  # zero for an equal item: never certified
    values = (1 + samples[options.selection :].double() @ direction.T) / 2
    low = empirical_bernstein(values.cpu().numpy(), options.alpha / len(others))
    return certified_radius(float(low.min()), options.sigma)


def certified_radius(low: float, sigma: float) -> float:
    """Return σ Φ⁻¹(`low`) for a lower bound above 1/2, else `NOT_CERTIFIED`."""
    return float(sigma * norm.ppf(low)) if low > 0.5 else NOT_CERTIFIED


def clopper_pearson(hits: int, trials: int, alpha: float) -> float:
    """Return a lower bound of a probability that holds with confidence 1 − α, after `hits` of `trials`."""
    return float(beta.ppf(alpha, hits, trials - hits + 1)) if hits else 0.0


def empirical_bernstein(values: npt.NDArray[np.float64], alpha: float) -> npt.NDArray[np.float64]:
    """Return lower bounds (F,) of the means of variables in [0,1], each with confidence 1 − α (Maurer & Pontil, 2009).

    `values` (n,F) holds n independent samples.
    """
    n, weight = len(values), np.log(2 / alpha)
    low: npt.NDArray[np.float64] = (
        values.mean(0) - np.sqrt(2 * values.var(0, ddof=1) * weight / n) - 7 * weight / (3 * (n - 1))
    )
    return low
