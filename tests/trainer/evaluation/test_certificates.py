"""Certified radii: their bounds, plain loops, and attacks within them that must fail."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from hardrank.trainer.attacks.attack import Gallery
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.evaluation.certificates import (
    NOT_CERTIFIED,
    SmoothingOptions,
    certified_radius,
    certify_image,
    certify_samples,
    clopper_pearson,
    empirical_bernstein,
)

SIDE = 4
"""Images of 3 × 4 × 4 pixels."""
OPTIONS = SmoothingOptions(sigma=0.3, samples=4000, selection=100, alpha=0.001)


class Tiny(nn.Module):
    """A smooth network from 48 pixels to the sphere in four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(0.4 * torch.randn(48, 16, generator=generator))
        self.second = nn.Parameter(torch.randn(16, 4, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(torch.tanh((images.flatten(1) - 0.5) @ self.first) @ self.second, dim=1)


@pytest.fixture(scope="module")
def setting() -> tuple[Tiny, Tensor, Gallery]:
    """The network, 24 images of three classes, and their embeddings."""
    network, generator = Tiny().eval(), torch.Generator().manual_seed(1)
    centers = torch.rand(3, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(24) % 3
    images = (centers[labels] + 0.1 * torch.randn(24, 3, SIDE, SIDE, generator=generator)).clamp(0, 1)
    with torch.no_grad():
        return network, images, Gallery(network(images), labels)


@pytest.mark.parametrize(("hits", "trials"), [(1, 10), (40, 50), (999, 1000), (1000, 1000)])
def test_clopper_pearson_inverts_the_binomial_tail(hits: int, trials: int) -> None:
    low = clopper_pearson(hits, trials, 0.01)
    assert binom.sf(hits - 1, trials, low) == pytest.approx(0.01, rel=1e-6)
    assert low < hits / trials


def test_no_hit_gives_no_bound() -> None:
    assert clopper_pearson(0, 100, 0.01) == 0


def test_empirical_bernstein_holds_more_often_than_promised_and_gains_from_a_small_variance() -> None:
    rng = np.random.default_rng(0)
    broad = rng.integers(0, 2, size=(500, 2000)).astype(float)
    assert (empirical_bernstein(broad, 0.05) > 0.5).mean() <= 0.05
    narrow = 0.5 + 0.02 * (rng.random((500, 2000)) - 0.5)
    assert (empirical_bernstein(narrow, 0.05) > 0.5).mean() <= 0.05
    assert (0.5 - empirical_bernstein(narrow, 0.05)).mean() < 0.3 * (0.5 - empirical_bernstein(broad, 0.05)).mean()


def test_a_bound_of_one_half_or_less_certifies_nothing() -> None:
    assert certified_radius(0.5, 1.0) == NOT_CERTIFIED
    assert certified_radius(0.841344746, 0.5) == pytest.approx(0.5, abs=1e-6)


def plain_radii(samples: np.ndarray, items: np.ndarray, labels: list[int], row: int) -> tuple[float, float]:
    """The radii of one image by loops: 20 samples select, all others estimate; σ = 0.3, α = 0.01."""
    same = [i for i in range(len(items)) if labels[i] == labels[row] and i != row]
    others = [i for i in range(len(items)) if labels[i] != labels[row]]
    hits = 0
    for point in samples[20:]:
        distances = [math.inf if i == row else float(np.linalg.norm(point - items[i])) for i in range(len(items))]
        hits += labels[distances.index(min(distances))] == labels[row]
    p, count = clopper_pearson(hits, len(samples) - 20, 0.01), len(samples) - 20
    chosen = max(same, key=lambda i: float(items[i] @ samples[:20].mean(0)))
    radii = []
    for other in others:
        u = (items[chosen] - items[other]) / np.linalg.norm(items[chosen] - items[other])
        h = [(1 + float(u @ point)) / 2 for point in samples[20:]]
        weight = math.log(2 * len(others) / 0.01)
        low = np.mean(h) - math.sqrt(2 * np.var(h, ddof=1) * weight / count) - 7 * weight / (3 * (count - 1))
        radii.append(0.3 * norm.ppf(low) if low > 0.5 else NOT_CERTIFIED)
    return 0.3 * norm.ppf(p) if p > 0.5 else NOT_CERTIFIED, min(radii)


def test_radii_equal_a_plain_loop(setting: tuple[Tiny, Tensor, Gallery]) -> None:
    network, images, gallery = setting
    options = SmoothingOptions(sigma=0.3, samples=1000, selection=20, alpha=0.01)
    noise = 0.3 * torch.randn(1020, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    items, labels = gallery.embeddings.double().numpy(), gallery.labels.tolist()
    positive = 0
    for row in range(6):
        with torch.no_grad():
            samples = network(images[row] + noise)
        vote, embedding = plain_radii(samples.double().numpy(), items, labels, row)
        found = certify_samples(samples, gallery, row, options)
        assert found.vote == pytest.approx(vote, abs=1e-9)
        assert found.embedding == pytest.approx(embedding, abs=1e-6)
        positive += found.vote > 0 and found.embedding > 0
    assert positive


def test_the_radius_of_a_linear_vote_is_below_the_true_one_and_near_it() -> None:
    """The vote of sign(w·x) changes exactly at the distance |w·x| / |w|."""
    weight = torch.linspace(-1, 1, 48)

    def embed(images: Tensor) -> Tensor:
        positive = (images.flatten(1) @ weight > 0)[:, None]
        return torch.where(positive, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))

    gallery = Gallery(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    for true in (0.1, 0.3, 0.6):
        image = (true * weight / weight.norm()).reshape(3, SIDE, SIDE)
        found = certify_image(embed, image, gallery, 0, OPTIONS, seed=0).vote
        assert 0.6 * true < found < true


def smoothed(network: Tiny, images: Tensor, sigma: float, count: int, seed: int) -> Tensor:
    """Embeddings (B,count,4) of noisy copies, with the same noise for each image."""
    noise = sigma * torch.randn(1, count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    found: Tensor = network((images[:, None] + noise).flatten(0, 1)).unflatten(0, (len(images), count))
    return found


def attack(network: Tiny, images: Tensor, gallery: Gallery, rows: Tensor, radii: Tensor, sigma: float) -> Tensor:
    """Move the mean embedding of images towards the other classes, within `radii`, by gradients over the noise."""
    start = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    change = start / start.flatten(1).norm(dim=1)[:, None, None, None] * 0.5 * radii[:, None, None, None]
    same = gallery.labels[rows][:, None].eq(gallery.labels[None])
    own = rows[:, None].eq(torch.arange(len(gallery.labels))[None])
    for _ in range(30):
        change.requires_grad_()
        mean = smoothed(network, images + change, sigma, 256, seed=4).mean(1)
        cosines = mean @ gallery.embeddings.T
        margin = cosines.masked_fill(~same | own, -2).amax(1) - cosines.masked_fill(same, -2).amax(1)
        [gradient] = torch.autograd.grad(margin.sum(), change)
        with torch.no_grad():
            change = change - 0.2 * radii[:, None, None, None] * nn.functional.normalize(
                gradient.flatten(1), dim=1
            ).view_as(change)
            length = change.flatten(1).norm(dim=1)
            change = change * (radii / length).clamp(max=1)[:, None, None, None]
    moved: Tensor = (images + change).detach()
    return moved


@torch.no_grad()
def keeps_class(network: Tiny, images: Tensor, gallery: Gallery, rows: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Whether the vote, and the item nearest to the mean embedding, are of the class of each image."""
    found = smoothed(network, images, sigma, 4000, seed=5)
    wanted, own = gallery.labels[rows], rows[:, None]
    votes = (found @ gallery.embeddings.T).scatter(2, own[:, None].expand(-1, 4000, 1), -2.0).argmax(2)
    share = gallery.labels[votes].eq(wanted[:, None]).double().mean(1)
    nearest = (found.mean(1) @ gallery.embeddings.T).scatter(1, own, -2.0).argmax(1)
    return share > 0.5, gallery.labels[nearest].eq(wanted)


def test_no_attack_within_the_radius_succeeds_and_some_beyond_it_do(setting: tuple[Tiny, Tensor, Gallery]) -> None:
    network, images, gallery = setting
    found = [certify_image(network, images[row], gallery, row, OPTIONS, seed=0) for row in range(24)]
    broken = 0
    for index, kind in enumerate(("vote", "embedding")):
        radii = torch.tensor([getattr(one, kind) for one in found])
        rows = (radii > 0).nonzero().squeeze(1)
        assert len(rows) >= 8
        inside = attack(network, images[rows], gallery, rows, 0.999 * radii[rows], OPTIONS.sigma)
        assert ((inside - images[rows]).flatten(1).norm(dim=1) <= radii[rows]).all()
        assert keeps_class(network, inside, gallery, rows, OPTIONS.sigma)[index].all(), kind
        beyond = attack(network, images[rows], gallery, rows, 5 * radii[rows] + 1, OPTIONS.sigma)
        broken += int((~keeps_class(network, beyond, gallery, rows, OPTIONS.sigma)[index]).sum())
    assert broken >= 8  # the attack is strong enough to mean something


def test_radii_depend_on_the_seed_alone(setting: tuple[Tiny, Tensor, Gallery]) -> None:
    network, images, gallery = setting

    def radii(seed: int, batch: int) -> list[tuple[float, float]]:
        found = [certify_image(network, images[row], gallery, row, OPTIONS, seed=seed, batch=batch) for row in range(4)]
        return [(one.vote, one.embedding) for one in found]

    whole, parts = radii(1, 4100), radii(1, 97)
    assert np.array(whole) == pytest.approx(np.array(parts), abs=1e-5)
    assert max(map(max, whole)) > 0
    assert radii(2, 4100) != whole


def test_images_alone_in_their_class_are_not_certified_and_a_single_class_always(
    setting: tuple[Tiny, Tensor, Gallery],
) -> None:
    network, images, gallery = setting
    few = SmoothingOptions(samples=50, selection=5)
    alone = Gallery(gallery.embeddings, torch.arange(24))
    found = certify_image(network, images[0], alone, 0, few, seed=0)
    assert (found.vote, found.embedding) == (NOT_CERTIFIED, NOT_CERTIFIED)
    single = Gallery(gallery.embeddings, torch.zeros(24, dtype=torch.long))
    assert certify_image(network, images[0], single, 0, few, seed=0).embedding == math.inf


@pytest.mark.parametrize("wrong", [{"sigma": 0}, {"samples": 1}, {"selection": 0}, {"alpha": 1.0}])
def test_invalid_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(AttackError, match="give σ above 0"):
        SmoothingOptions(**wrong)  # type: ignore[arg-type]
