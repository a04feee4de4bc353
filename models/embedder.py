"""The embedding network φ: pixels in [0,1] → embeddings on the unit sphere."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.models.backbones import BackboneError, build_backbone
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from hardrank.models.weights import WeightsSource, build_pretrained

Embed = Callable[[Tensor], Tensor]
"""A model as attacks use it: (N,3,H,W) in [0,1] → (N,D) on the unit sphere, differentiable."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The arguments that build an embedder."""

    backbone: str = "small-resnet"
    """`small-resnet` (32 to 96 px), `c2f2` (28 px), a torchvision name (`resnet18`) or `timm/NAME`."""
    dimension: int = 512
    """D, the dimension of an embedding."""
    image_size: int = 64
    """H = W of the input, in pixels; the same as preprocessing.crop."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the channels, which the network subtracts from pixels in [0,1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the channels, by which the network divides."""


class Embedder(nn.Module):
    """φ: (N,3,H,W) float pixels in [0,1] → (N,D) on the unit sphere (method: Setting).

    Normalization with `architecture.mean` and `architecture.std` is part of the network, so that a perturbation lives
    in pixel space.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, features: int, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.weights_source: WeightsSource | None = None
        """Where pretrained weights of the backbone come from; None for other starts."""
        self.backbone = backbone
        self.head = nn.Linear(features, architecture.dimension)
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] → the backbone's features (N,F)."""
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features

    def project(self, features: Tensor) -> Tensor:
        """Features (N,F) → (N,D) on the unit sphere. Separate from `features` so that it can run in float32."""
        return F.normalize(self.head(features), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Embed `images`: (N,3,H,W) in [0,1] → (N,D), each row of norm 1."""
        return self.project(self.features(images))


def build_embedder(architecture: Architecture, *, imagenet: bool = False, weights: Path | None = None) -> Embedder:
    """Build an embedding network.

    Args:
        architecture: Backbone, dimension and image size.
        imagenet: Start the backbone from pretrained weights instead of random ones (`hardrank.models.weights` says
            where they come from). Its mean and std then are those of the weights, unless `architecture` has others
            than the default.
        weights: A file of pretrained weights; implies `imagenet`.

    Returns:
        The network in training mode: float pixels (N,3,H,W) in [0,1] → embeddings (N,D) of norm 1.

    Raises:
        BackboneError: The backbone is unknown, cannot take the image size, or its weights are not available.
    """
    if architecture.dimension < 1 or architecture.image_size < 8:
        raise BackboneError(
            f"dimension is {architecture.dimension} and image_size {architecture.image_size}; they must be at least 1 "
            "and 8 px"
        )
    if not all(map(math.isfinite, (*architecture.mean, *architecture.std))) or min(architecture.std) <= 0:
        raise BackboneError(
            f"mean is {architecture.mean} and std {architecture.std}; they must be finite, and std above 0"
        )
    if not imagenet and weights is None:
        backbone, features = build_backbone(architecture.backbone, image_size=architecture.image_size)
        return Embedder(backbone, features, architecture)
    start = build_pretrained(architecture.backbone, image_size=architecture.image_size, file=weights)
    if (architecture.mean, architecture.std) == (IMAGENET_MEAN, IMAGENET_STD):
        architecture = replace(architecture, mean=start.input.mean, std=start.input.std)
    embedder = Embedder(start.backbone, start.features, architecture)
    embedder.weights_source = start.source
    return embedder
