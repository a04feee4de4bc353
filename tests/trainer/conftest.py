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

from models.embedder import IMAGENET_MEAN, IMAGENET_STD


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
