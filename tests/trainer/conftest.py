"""The golden network and results, for the tests that compare with them."""

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

from models.embedder import IMAGENET_MEAN, IMAGENET_STD
from trainer.attacks.attack import Gallery, Victims, victims_in


@dataclass(frozen=True)
class Golden:
    """The shared arrays, in float64."""

    arrays: dict[str, np.ndarray]
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


def golden_network(
    arrays: dict[str, np.ndarray], dtype: torch.dtype = torch.float64
) -> Callable[[Tensor], Tensor]:
    prefix = "weights."
    weights = {
        name.removeprefix(prefix): torch.from_numpy(values).to(dtype)
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
    # Rounded to float32 first, as the reference's constants are: 1e-8 decides the sign of a gradient here
    # and there.
    mean, std = (torch.tensor(values).to(dtype).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def embed(x: Tensor) -> Tensor:
        x = (x - mean) / std
        for layer in ("conv1", "conv2", "conv3"):
            x = F.relu(F.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride=2, padding=1))
        return F.normalize(F.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"]))

    return embed


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> Golden:
    """Load the golden cases; skipped where the shared folder is absent."""
    with np.load(shared_dir / "golden" / "ranking_attacks.npz") as file:
        arrays = {name: file[name] for name in file.files}
    results = json.loads((shared_dir / "golden" / "ranking_attacks.json").read_text(encoding="utf-8"))
    gallery = Gallery(torch.from_numpy(arrays["embeddings"]), torch.from_numpy(arrays["labels"]))
    return Golden(
        arrays=arrays,
        results=results["attacks"],
        embed=golden_network(arrays),
        images=torch.from_numpy(arrays["images"]).double() / 255,
        gallery=gallery,
        victims=victims_in(gallery, torch.from_numpy(arrays["queries"])),
    )
