"""The golden network and cases of the reference implementation."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.embedder import IMAGENET_MEAN, IMAGENET_STD
from hardrank.trainer.attacks.attack import Gallery, Victims, victims_in


@dataclass(frozen=True)
class Golden:
    """What the reference implementation computed, in float64."""

    arrays: dict[str, np.ndarray[Any, Any]]
    facts: dict[str, Any]
    images: Tensor
    embed: Callable[[Tensor], Tensor]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])


def golden_network(arrays: dict[str, np.ndarray[Any, Any]]) -> Callable[[Tensor], Tensor]:
    """Build φ in float64; constants are rounded to float32 first, since 1e-8 decides the sign of some gradients."""
    weights = {
        name.removeprefix("weights."): torch.from_numpy(value).double()
        for name, value in arrays.items()
        if name.startswith("weights.")
    }
    mean = torch.tensor(IMAGENET_MEAN).double().view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).double().view(1, 3, 1, 1)

    def embed(images: Tensor) -> Tensor:
        x = (images - mean) / std
        for layer in ("conv1", "conv2", "conv3"):
            x = F.relu(F.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride=2, padding=1))
        return F.normalize(F.linear(x.mean(dim=(2, 3)), weights["fc.weight"], weights["fc.bias"]), dim=1)

    return embed


@pytest.fixture(scope="session")
def golden_hm(shared_dir: Path) -> Golden:
    """Hardness manipulation and ACT on the golden network; `images` is the SPC-2 batch."""
    folder = shared_dir / "golden"
    ranking = dict(np.load(folder / "ranking_attacks.npz"))
    arrays = dict(np.load(folder / "hardness_manipulation.npz"))
    facts = json.loads((folder / "hardness_manipulation.json").read_text(encoding="utf-8"))
    images = torch.from_numpy(ranking["images"][arrays["batch"]]).double() / 255
    return Golden(arrays, facts, images, golden_network(ranking))


@dataclass(frozen=True)
class Small:
    """A small network, trained for a moment, with images of its own; in float64."""

    embed: Callable[[Tensor], Tensor]
    images: Tensor
    gallery: Gallery

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
    for _ in range(25):
        cosine = embed(images) @ embed(images).T
        target = (labels[:, None] == labels).double()
        optimizer.zero_grad()
        torch.autograd.backward((cosine - target).square().mean())
        optimizer.step()
    network.requires_grad_(False)
    return Small(embed, images, Gallery(embed(images), labels))
