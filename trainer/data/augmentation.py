"""Random views of training images: crops that are resized, mirrored, and changed in color."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from hardrank.models.errors import HardrankError

_RATIO: Final = math.log(4 / 3)
"""Aspect ratios of crops are between 3:4 and 4:3, uniform in their logarithm, as is usual."""


class AugmentationError(HardrankError):
    """An option of the augmentation is out of its range."""


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """How training images vary, beside random crops of the network's size and mirroring."""

    min_area: float = 0.0
    """Smallest share of the square that a crop shows, from 0 to 1; crops are resized to the network's size. 0 for crops
    of that size, which are not resized."""
    color: float = 0.0
    """Brightness, contrast and saturation are multiplied by factors between 1 − color and 1 + color; from 0 to 1."""
    resize: int | None = None
    """Side of the squares that crops are taken from, pixels; default: `preprocessing.resize`. Larger ones give sharper
    small crops."""

    def __post_init__(self) -> None:
        for name, value in (("min_area", self.min_area), ("color", self.color)):
            if not 0 <= value <= 1:
                raise AugmentationError(f"augmentation.{name} is {value}; give a number from 0 to 1.")
        if self.resize is not None and not self.min_area:
            raise AugmentationError(
                "augmentation.resize is the square that resized crops are taken from; set augmentation.min_area too."
            )


def augment(image: Tensor, side: int, options: AugmentationOptions, generator: np.random.Generator) -> Tensor:
    """Return a random view of a square.

    Args:
        image: (3,R,R) in [0,1].
        side: Side of the view, pixels.
        options: How much it varies.
        generator: Determines the view.

    Returns:
        (3,side,side) in [0,1].
    """
    view = _random_crop(image, side, options.min_area, generator)
    if generator.random() < 0.5:
        view = view.flip(-1)
    if options.color:
        brightness, contrast, saturation = generator.uniform(1 - options.color, 1 + options.color, 3)
        view = transforms.adjust_brightness(view, brightness)
        view = transforms.adjust_contrast(view, contrast)
        view = transforms.adjust_saturation(view, saturation)
    return torch.as_tensor(view)


def _random_crop(image: Tensor, side: int, min_area: float, generator: np.random.Generator) -> Tensor:
    whole = image.shape[-1]
    if not min_area:
        top, left = generator.integers(0, whole - side + 1, 2)
        return image[:, top : top + side, left : left + side]
    area, ratio = generator.uniform(min_area, 1), math.exp(generator.uniform(-_RATIO, _RATIO))
    height = min(whole, max(1, round(whole * math.sqrt(area / ratio))))
    width = min(whole, max(1, round(whole * math.sqrt(area * ratio))))
    top, left = generator.integers(0, whole - height + 1), generator.integers(0, whole - width + 1)
    part = image[:, top : top + height, left : left + width]
    return torch.as_tensor(transforms.resize(part, [side, side], InterpolationMode.BILINEAR, antialias=True))
