"""A small trained network, and the golden cases of the reference implementation."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import Gallery, Victims, victims_in
from tests.conftest import ROOT
from tests.trainer.golden.cases import (
    FOLDER,
    GoldenAttacks,
    GoldenManipulation,
    load_attacks,
    load_manipulation,
)


@pytest.fixture(scope="session", params=["committed", "full"])
def golden_folder(request: pytest.FixtureRequest) -> Path:
    """The golden cases that are committed, then the full ones where $SHARED_DIR has them."""
    if request.param == "committed":
        return FOLDER
    folder = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared")) / "golden"
    if not folder.is_dir():
        pytest.skip(f"the full golden cases are absent: {folder}")
    return folder


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> GoldenAttacks:
    """The ranking attacks of the reference implementation."""
    return load_attacks(golden_folder)


@pytest.fixture(scope="session")
def golden_hm(golden_folder: Path) -> GoldenManipulation:
    """Hardness manipulation and ACT of the reference implementation."""
    return load_manipulation(golden_folder)


@dataclass(frozen=True)
class Small:
    """A small network, trained for a moment, with images of its own; in float64."""

    embed: Callable[[Tensor], Tensor]
    images: Tensor
    gallery: Gallery
    network: torch.nn.Sequential
    """The network behind `embed`, which subtracts 0.5 from its input and normalizes its output."""

    def victims(self, count: int) -> Victims:
        return victims_in(self.gallery, torch.arange(count))


def _patterns(classes: int, each: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy images (N,3,16,16) of random low-frequency patterns, one a class."""
    labels = torch.arange(classes * each) % classes
    coarse = torch.rand(classes, 3, 4, 4, generator=generator, dtype=torch.float64)
    pattern = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")[labels]
    noise = torch.rand(pattern.shape, generator=generator, dtype=torch.float64)
    return (0.7 * pattern + 0.3 * noise).clamp(0, 1), labels


@pytest.fixture(scope="session")
def small() -> Small:
    return _train_small(epochs=25, epsilon=0)


@pytest.fixture(scope="session")
def small_robust() -> Small:
    """The same network, trained on images that PGD perturbs by up to 8/255."""
    return _train_small(epochs=60, epsilon=8 / 255)


def _train_small(*, epochs: int, epsilon: float) -> Small:
    generator = torch.Generator().manual_seed(0)
    images, labels = _patterns(8, 25, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 12, 3, 2, 1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(12, 24, 3, 2, 1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(24 * 16, 16),
        ).double()

    def embed(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(network(x - 0.5), dim=1)

    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        moved = images if epsilon == 0 else _moved(embed, images, epsilon, generator)
        cosine = embed(moved) @ embed(images).T
        target = (labels[:, None] == labels).double()
        optimizer.zero_grad()
        torch.autograd.backward((cosine - target).square().mean())
        optimizer.step()
    network.requires_grad_(False)
    return Small(embed, images, Gallery(embed(images), labels), network)


def _moved(embed: Callable[[Tensor], Tensor], images: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Move the embeddings of `images` away from where they are, by three steps of PGD from a random start."""
    benign = embed(images).detach()
    offset = epsilon * (2 * torch.rand(images.shape, generator=generator, dtype=images.dtype) - 1)
    for _ in range(3):
        offset.requires_grad_(True)
        (gradient,) = torch.autograd.grad((embed((images + offset).clamp(0, 1)) - benign).square().sum(), offset)
        offset = (offset.detach() + epsilon / 2 * gradient.sign()).clamp(-epsilon, epsilon)
    return (images + offset).clamp(0, 1)
