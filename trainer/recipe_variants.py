"""A recipe at another image size, with another pretrained network, or with stages of another length or none."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, TypeVar

from hardrank.models.network_input import network_input
from hardrank.trainer.config import Config, ConfigError, RobustStart, TrainingOptions, WarmupOptions

_Options = TypeVar("_Options", WarmupOptions, TrainingOptions)

_WARMUP_UPDATES: Final = 12
_UPDATES: Final = 4
_EVALUATION: Final = {"attacked": 16, "steps": 4, "strong_images": 2}
"""Lengths of a short run."""


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


def with_lengths(config: Config, given: AbstractSet[str]) -> Config:
    """Return `config` without what would override lengths that options give explicitly.

    `epochs` clears the `updates` of the recipe. A length of the warm-up clears the `warmup_epochs` of the models that
    have a warm-up, unless they are given too.

    Args:
        config: The configuration.
        given: The names of the given options, such as `--warmup.epochs`.

    Raises:
        ConfigError: `epochs` and `updates` of the same stage are both given.
    """

    def freed(options: _Options, stage: str) -> _Options:
        epochs, updates = f"--{stage}.epochs" in given, f"--{stage}.updates" in given
        if epochs and updates:
            raise ConfigError(f"--{stage}.epochs and --{stage}.updates both set the length of {stage}; give one")
        return replace(options, updates=None) if epochs else options

    def of_model(options: TrainingOptions, kind: str) -> TrainingOptions:
        own = f"--{kind}.warmup-epochs" in given or not options.warmup_epochs
        return freed(options if own or not is_warmup_given else replace(options, warmup_epochs=None), kind)

    is_warmup_given = not given.isdisjoint({"--warmup.epochs", "--warmup.updates"})
    return replace(
        config,
        warmup=freed(config.warmup, "warmup"),
        benign=of_model(config.benign, "benign"),
        robust=of_model(config.robust, "robust"),
        robust_stages=tuple(
            freed(options, f"robust-stages.{number}") for number, options in enumerate(config.robust_stages)
        ),
    )


def shortened(config: Config) -> Config:
    """Return `config` with a few updates of each stage and few attacks, under a name of its own.

    Such a run shows within minutes whether everything works; its figures mean nothing.
    """

    def short(options: TrainingOptions) -> TrainingOptions:
        updates = options.updates if options.updates == 0 else _UPDATES
        return replace(options, updates=updates, warmup_epochs=0 if options.warmup_epochs == 0 else None)

    return replace(
        _with_training(config, short),
        name=f"{config.name}-short",
        warmup=replace(config.warmup, updates=_WARMUP_UPDATES),
        evaluation=replace(config.evaluation, **_EVALUATION),
    )


def untrained(config: Config) -> Config:
    """Return `config` without any update, so that the network is measured and exported as it starts."""
    without = replace(config, robust_stages=())
    return _with_training(without, lambda options: replace(options, updates=0, warmup_epochs=0))


def with_defense(config: Config, given: AbstractSet[str]) -> Config:
    """Return `config` without its stages if `--robust.defense` is given, and no option of a stage: it trains alone."""
    if "--robust.defense" not in given or any(option.startswith("--robust-stages.") for option in given):
        return config
    return replace(config, robust_stages=())


def with_budget(config: Config, given: AbstractSet[str]) -> Config:
    """Return `config` with a given `--robust.epsilon` in all stages of the robust model that have none of their own."""
    if "--robust.epsilon" not in given:
        return config
    stages = (
        stage if f"--robust-stages.{number}.epsilon" in given else replace(stage, epsilon=config.robust.epsilon)
        for number, stage in enumerate(config.robust_stages)
    )
    return replace(config, robust_stages=tuple(stages))


def _with_training(config: Config, change: Callable[[TrainingOptions], TrainingOptions]) -> Config:
    return replace(
        config,
        benign=change(config.benign),
        robust=change(config.robust),
        robust_stages=tuple(map(change, config.robust_stages)),
    )


def refuse_unused(config: Config, given: AbstractSet[str]) -> None:
    """Raise `ConfigError` for a given option of the warm-up if no model has one."""
    models = (config.benign, config.robust) if config.robust_start is RobustStart.INITIAL else (config.benign,)
    if any(map(config.warms_up, models)):
        return
    of_warmup = {name for name in given if name.startswith("--warmup.") or name.endswith(".warmup-epsilon")}
    unused = sorted(of_warmup - {"--warmup.anchor"})  # of which 0 may be needed, and other values are errors already
    if unused:
        raise ConfigError(
            f"{unused[0]} has no effect: no model has a warm-up. Remove it, or use --initialisation warmup or "
            "imagenet-warmup, without --benign.warmup-epochs 0 and --robust.warmup-epochs 0"
        )
