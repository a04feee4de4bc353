"""A recipe at another image size, or with another pretrained network."""

from dataclasses import replace

from hardrank.models.network_input import network_input
from hardrank.trainer.config import Config, ConfigError


def at_size(config: Config, size: int) -> Config:
    """Return `config` for images of `size` pixels a side, with all sizes of the training in the same proportions.

    `warmup.anchor_size` stays as it is: it belongs to the pretrained network. The size becomes part of the name.

    Args:
        config: The configuration.
        size: Side of the network's input, pixels; at least 1.

    Raises:
        ConfigError: the size is less than 1.
    """
    if size < 1:
        raise ConfigError(f"--size must be at least 1, not {size}")
    pre, augmentation, warmup = config.preprocessing, config.augmentation, config.warmup

    def scaled(side: int) -> int:
        return max(1, round(side * size / pre.crop))

    return replace(
        config,
        name=f"{config.name}-{size}" if size != pre.crop else config.name,
        preprocessing=replace(pre, resize=scaled(pre.resize), crop=size),
        augmentation=replace(augmentation, resize=augmentation.resize and scaled(augmentation.resize)),
        warmup=replace(warmup, image_size=warmup.image_size and scaled(warmup.image_size)),
        architecture=replace(config.architecture, image_size=size),
    )


def with_backbone(config: Config, backbone: str) -> Config:
    """Return `config` for another network; a pretrained one gets images as its weights expect them.

    Fit, interpolation and the share of the crop are those of the network's pretrained configuration; the crop stays as
    large as in the recipe. Mean and standard deviation come with the weights.

    Args:
        config: The configuration.
        backbone: A torchvision name or `timm/NAME`.

    Raises:
        BackboneError: unknown name.
    """
    if backbone == config.architecture.backbone:
        return config
    own = network_input(backbone).preprocessing(config.preprocessing.crop)
    return replace(
        config,
        preprocessing=own if config.is_pretrained else config.preprocessing,
        architecture=replace(config.architecture, backbone=backbone),
    )
