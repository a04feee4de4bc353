"""The golden cases of the ranking attacks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import golden_network
from trainer.attacks.attack import Gallery, Victims, victims_in


@dataclass(frozen=True)
class Ranking:
    """A gallery, a network, and what the reference implementation did to the first rows, in float64."""

    arrays: dict[str, np.ndarray[Any, Any]]
    results: dict[str, Any]
    embed: Callable[[Tensor], Tensor]
    images: Tensor
    gallery: Gallery
    victims: Victims

    @property
    def attacked(self) -> Tensor:
        return self.images[self.victims.own]

    def targets(self, name: str) -> Tensor | None:
        found = self.arrays.get(f"{name}.targets")
        return None if found is None else torch.from_numpy(found)


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> Ranking:
    folder = shared_dir / "golden"
    arrays = dict(np.load(folder / "ranking_attacks.npz"))
    gallery = Gallery(torch.from_numpy(arrays["embeddings"]), torch.from_numpy(arrays["labels"]))
    return Ranking(
        arrays=arrays,
        results=json.loads((folder / "ranking_attacks.json").read_text(encoding="utf-8"))["attacks"],
        embed=golden_network(arrays),
        images=torch.from_numpy(arrays["images"]).double() / 255,
        gallery=gallery,
        victims=victims_in(gallery, torch.from_numpy(arrays["queries"])),
    )


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
