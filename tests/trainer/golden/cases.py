"""Loads the golden cases: those committed beside this file, or the full ones of the reference implementation."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from hardrank.trainer.attacks.attack import Gallery, Victims, victims_in

FOLDER: Final = Path(__file__).parent
PAPER_TABLES: Final = FOLDER / "paper_tables.csv"
"""The published tables, a row for each model."""

Arrays = dict[str, np.ndarray[Any, Any]]


def golden_network(arrays: Arrays) -> Callable[[Tensor], Tensor]:
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


@dataclass(frozen=True)
class GoldenAttacks:
    """A gallery, a network, and what the reference implementation did to 48 of its images, in float64."""

    arrays: Arrays
    results: dict[str, Any]
    """By case and moment (`before`, `after_4`, `after`): means over the queries."""
    embed: Callable[[Tensor], Tensor]
    gallery: Gallery
    victims: Victims
    images: Tensor
    """(48,3,32,32): the attacked images, benign."""

    def targets(self, case: str) -> Tensor | None:
        found = self.arrays.get(f"{case}.targets")
        return None if found is None else torch.from_numpy(found)

    def adversarial(self, case: str, steps: int) -> tuple[Tensor, Tensor]:
        """Return which of the 48 queries can be compared (n,), and their adversarial images (n,3,32,32)."""
        suffix = "" if steps == 32 else f"_{steps}"
        if (change := self.arrays.get(f"{case}.perturbation{suffix}")) is not None:
            rows = torch.from_numpy(self.arrays[f"{case}.compared"])
            return rows, self.images[rows] + torch.from_numpy(change).double() / 1e7
        rows = torch.from_numpy(self.arrays[f"{case}.comparable"]).nonzero().squeeze(1)
        return rows, torch.from_numpy(self.arrays[f"{case}.adversarial{suffix}"]).double()[rows]


@dataclass(frozen=True)
class GoldenManipulation:
    """Hardness manipulation and ACT on the golden network, in float64."""

    arrays: Arrays
    facts: dict[str, Any]
    embed: Callable[[Tensor], Tensor]
    images: Tensor
    """(48,3,32,32): the SPC-2 batch."""

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def triplets(self, case: str) -> list[Tensor]:
        """Return the rows of the batch: anchors, positives and negatives, each (24,)."""
        return [self.tensor(f"{case}.{part}") for part in ("anchor", "positive", "negative")]

    def adversarial(self, case: str, rows: list[Tensor]) -> tuple[slice, Tensor]:
        """Return which of the 24 groups are kept, and their adversarial images (T,K,3,32,32).

        `rows` are the K images of each group, as rows of the batch.
        """
        if (change := self.arrays.get(f"{case}.perturbation")) is not None:
            kept = slice(len(self.arrays["compared"]))
            benign = torch.stack([self.images[row[kept]] for row in rows], dim=1)
            return kept, benign + torch.from_numpy(change).double() / 255
        whole = self.tensor(f"{case}.adversarial")
        return slice(None), whole.view(len(rows), -1, *whole.shape[1:]).transpose(0, 1)


def load_attacks(folder: Path) -> GoldenAttacks:
    """Read the ranking attacks of a folder of golden cases."""
    arrays = dict(np.load(folder / "ranking_attacks.npz"))
    gallery = Gallery(torch.from_numpy(arrays["embeddings"]), torch.from_numpy(arrays["labels"]))
    return GoldenAttacks(
        arrays=arrays,
        results=_facts(folder / "ranking_attacks.json")["attacks"],
        embed=golden_network(arrays),
        gallery=gallery,
        victims=victims_in(gallery, torch.from_numpy(arrays["queries"])),
        images=_images(arrays, arrays["queries"]),
    )


def load_manipulation(folder: Path) -> GoldenManipulation:
    """Read hardness manipulation of a folder of golden cases."""
    attacks, arrays = (dict(np.load(folder / f"{name}.npz")) for name in ("ranking_attacks", "hardness_manipulation"))
    return GoldenManipulation(
        arrays=arrays,
        facts=_facts(folder / "hardness_manipulation.json"),
        embed=golden_network(attacks),
        images=_images(attacks, arrays["batch"]),
    )


def _images(arrays: Arrays, rows: np.ndarray[Any, Any]) -> Tensor:
    """Images of the gallery rows `rows`, in [0,1]; the committed file lacks some."""
    kept = arrays.get("image_rows")
    places = rows if kept is None else np.searchsorted(kept, rows)
    return torch.from_numpy(arrays["images"][places]).double() / 255


def _facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts
