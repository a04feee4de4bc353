"""A recipe at another image size."""

from dataclasses import replace

from hardrank.trainer.config import Config


def at_size(config: Config, size: int) -> Config:
    """Return `config` for images of `size` pixels a side, with all sizes of the training in the same proportions.

    `warmup.anchor_size` stays as it is: it belongs to the pretrained network. The size becomes part of the name.

    Args:
        config: The configuration.
        size: Side of the network's input, pixels; at least 1.

    Raises:
        ConfigError: the squares and crops do not fit each other at this size.
    """
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
