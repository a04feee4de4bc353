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

from hardrank.trainer.attacks.attack import Gallery, Victims, victims_in
from tests.trainer.conftest import golden_network


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
