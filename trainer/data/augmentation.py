"""Random views of training images: crops that are resized, mirrored, and changed in color."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import to_unit

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


def augment(
    images: npt.NDArray[np.uint8], side: int, options: AugmentationOptions, generator: np.random.Generator
) -> Tensor:
    """Return a random view of each square: a crop, mirrored with probability ½, in other colors.

    Args:
        images: (n,3,R,R).
        side: Side of the views, pixels.
        options: How much they vary.
        generator: Determines the views.

    Returns:
        (n,3,side,side) in [0,1].
    """
    if options.min_area:
        views = (_resized_crop(square, side, options, generator) for square in torch.from_numpy(to_unit(images)))
        return torch.stack([_vary_colors(view, options.color, generator) for view in views])
    crops = torch.from_numpy(to_unit(_crops(images, side, generator)))
    return torch.stack([_vary_colors(crop, options.color, generator) for crop in crops]) if options.color else crops


def _crops(images: npt.NDArray[np.uint8], side: int, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return crops (n,3,side,side) that are not resized, mirrored with probability ½."""
    room = images.shape[-1] - side + 1
    tops, lefts = generator.integers(0, room, (2, len(images)))
    mirrored = generator.random(len(images)) < 0.5
    crops = np.empty((len(images), 3, side, side), dtype=np.uint8)
    for out, image, top, left, mirror in zip(crops, images, tops, lefts, mirrored, strict=True):
        part = image[:, top : top + side, left : left + side]
        out[...] = part[:, :, ::-1] if mirror else part
    return crops


def _resized_crop(square: Tensor, side: int, options: AugmentationOptions, generator: np.random.Generator) -> Tensor:
    """Return a crop of random area and aspect ratio, resized to (3,side,side), mirrored with probability ½."""
    whole = square.shape[-1]
    area, ratio = generator.uniform(options.min_area, 1), math.exp(generator.uniform(-_RATIO, _RATIO))
    height = min(whole, max(1, round(whole * math.sqrt(area / ratio))))
    width = min(whole, max(1, round(whole * math.sqrt(area * ratio))))
    top, left = generator.integers(0, whole - height + 1), generator.integers(0, whole - width + 1)
    part = square[:, top : top + height, left : left + width]
    view = torch.as_tensor(transforms.resize(part, [side, side], InterpolationMode.BILINEAR, antialias=True))
    return view.flip(-1) if generator.random() < 0.5 else view


def _vary_colors(view: Tensor, color: float, generator: np.random.Generator) -> Tensor:
    if not color:
        return view
    brightness, contrast, saturation = generator.uniform(1 - color, 1 + color, 3)
    view = transforms.adjust_brightness(view, brightness)
    view = transforms.adjust_contrast(view, contrast)
    return torch.as_tensor(transforms.adjust_saturation(view, saturation))
