"""Networks of timm and torchvision as embedders: their features, on the unit sphere."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from hardrank.models.backbones import build_backbone
from hardrank.models.embedder import Architecture, Embedder
from hardrank.models.network_input import network_input
from hardrank.models.preprocessing import Preprocessing
from hardrank.models.weights import build_pretrained
from hardrank.models.weights_file import state_hash


class LibraryWeights(StrEnum):
    """Weights of a network of timm or torchvision."""

    IMAGENET = "imagenet"
    """Pretrained weights, from the library's cache or an installed package."""
    RANDOM = "random"
    """Random weights, from seed 0."""


@dataclass(frozen=True, kw_only=True)
class LibraryModel:
    """A network of a library as an embedder."""

    embedder: Embedder
    """Its head is the identity: an embedding is the normalized features."""
    preprocessing: Preprocessing
    sha256: str
    """Over the names and values of its weights, hexadecimal."""
    notes: tuple[str, ...]


def load_library_model(
    name: str, *, weights: LibraryWeights, file: Path | None = None, size: int | None = None
) -> LibraryModel:
    """Build a network of timm or torchvision as an embedder. Nothing is downloaded.

    Args:
        name: `timm/NAME` or a torchvision name.
        weights: Pretrained weights from the library's cache or an installed package, or random ones.
        file: A file of weights to load instead: safetensors, or a state dict of PyTorch. Its classifier, if it has
            one, is left out.
        size: Side of the input in pixels; None for the network's own.

    Raises:
        BackboneError: Unknown name.
        WeightsError: The weights are not on this machine, damaged, hold more than tensors, or do not fit.
    """
    network = network_input(name)
    side = size or network.size
    notes = ["the embedding is the network's features, normalized to length 1"]
    if file is not None or weights is LibraryWeights.IMAGENET:
        start = build_pretrained(name, image_size=side, file=file, download=False)
        backbone, width, network = start.backbone, start.features, start.input
        source = start.source
        notes.append(f"the weights come from the {source.origin} {source.name} (SHA-256 {source.sha256})")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone, width = build_backbone(name, image_size=side)
        notes.append("the weights are random")
    architecture = Architecture(backbone=name, dimension=width, image_size=side, mean=network.mean, std=network.std)
    embedder = Embedder(backbone.eval(), width, architecture).eval()
    with torch.no_grad():
        embedder.head.weight.copy_(torch.eye(width))
        embedder.head.bias.zero_()
    return LibraryModel(
        embedder=embedder,
        preprocessing=network.preprocessing(side),
        sha256=state_hash(backbone),
        notes=tuple(notes),
    )
