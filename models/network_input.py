"""The input that a network was pretrained with: size, crop, mean, standard deviation and interpolation."""

import math
from dataclasses import dataclass
from typing import Any, Final

from hardrank.models.backbones import OWN, TIMM, build_backbone
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Fit, Interpolation, Preprocessing

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """The input that a network was pretrained with."""

    size: int
    """Side of the input, pixels."""
    crop_share: float
    """Side of the crop by that of the resized image, above 0 and at most 1."""
    mean: Channels
    std: Channels
    fit: Fit
    interpolation: Interpolation

    def preprocessing(self, size: int | None = None) -> Preprocessing:
        """Return the preprocessing for inputs of `size` pixels, by default the network's own size."""
        side = size or self.size
        resize = math.floor(side / self.crop_share + 1e-6)
        return Preprocessing(resize=max(side, resize), crop=side, fit=self.fit, interpolation=self.interpolation)


_OWN_INPUT: Final = NetworkInput(
    size=64,
    crop_share=64 / 72,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit=Fit.SQUARE,
    interpolation=Interpolation.BILINEAR,
)


def network_input(name: str) -> NetworkInput:
    """Return the input of a network according to its pretrained configuration.

    Raises:
        BackboneError: Unknown name.
    """
    if name in OWN:
        return _OWN_INPUT
    return _timm_input(name) if name.startswith(TIMM) else _torchvision_input(name)


def _timm_input(name: str) -> NetworkInput:
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None:  # unknown, or without weights
        build_backbone(name, image_size=224)
        half = (0.5, 0.5, 0.5)
        return NetworkInput(
            size=224, crop_share=0.875, mean=half, std=half, fit=Fit.SHORTEST, interpolation=Interpolation.BICUBIC
        )
    return NetworkInput(
        size=int(config.input_size[-1]),
        crop_share=float(config.crop_pct or 1.0),
        mean=_channels(config.mean),
        std=_channels(config.std),
        fit=Fit.SQUARE if config.crop_mode == "squash" else Fit.SHORTEST,
        interpolation=_interpolation(config.interpolation),
    )


def _torchvision_input(name: str) -> NetworkInput:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        build_backbone(name, image_size=224)  # raises and explains
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = int(preset.crop_size[0])
    return NetworkInput(
        size=size,
        crop_share=size / int(preset.resize_size[0]),
        mean=_channels(preset.mean),
        std=_channels(preset.std),
        fit=Fit.SHORTEST,
        interpolation=_interpolation(preset.interpolation.value),
    )


def _channels(values: Any) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _interpolation(name: str) -> Interpolation:
    return Interpolation.BILINEAR if name == Interpolation.BILINEAR else Interpolation.BICUBIC
