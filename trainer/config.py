"""The configuration of a run: all options with their defaults and limits."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import BeforeValidator, ConfigDict

from hardrank.models.embedder import Architecture
from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing
from hardrank.trainer.data.augmentation import AugmentationOptions
from hardrank.trainer.data.dataset import DataOptions

BENIGN: Final = "benign"
ROBUST: Final = "robust"
"""The two models of a run."""


class ConfigError(HardrankError):
    """An unknown recipe or option, or an invalid value."""


def pixels(text: str | float) -> float:
    """Read a length in units of pixels: a number, or a fraction such as `8/255`; raises `ValueError` otherwise."""
    if not isinstance(text, str):
        return text
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction such as 8/255") from None


Pixels = Annotated[
    float,
    BeforeValidator(pixels),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N/255",
        instance_from_str=lambda texts: pixels(texts[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [f"{255 * value:g}/255"],
    ),
]
"""A length in units of pixels in [0,1], which can be written `8/255`."""


class RobustStart(StrEnum):
    """Where the training of the robust model starts."""

    INITIAL = "initial"
    BENIGN = "benign"


class Schedule(StrEnum):
    """Schedule of the learning rate over a stage."""

    CONSTANT = "constant"
    COSINE = "cosine"


@dataclass(frozen=True, kw_only=True)
class WarmupOptions:
    """The classification stage before the triplets, with `initialisation: warmup` or `imagenet-warmup`."""

    epochs: float = 40.0
    """Passes over the training images."""
    updates: int | None = None
    """Number of updates, in place of `epochs`; an option `epochs` clears that of a recipe."""
    batch_size: int = 128
    """Images per batch."""
    image_size: int | None = None
    """Side of the images of the warm-up, pixels; default: that of the network. A smaller one makes updates cheaper, and
    shows objects as small as in the resized crops of `augmentation`. Convolutional networks take any."""
    learning_rate: float = 1e-3
    """Maximum learning rate of Adam."""
    weight_decay: float = 4e-4
    """Weight decay of Adam (L2)."""
    scale: float = 16.0
    """Factor of the cosines in the softmax."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes, from 0 to below 1."""
    benign_share: float = 0.5
    """Share of a perturbed warm-up, at its beginning, that has benign images; from 0 to below 1."""
    epsilon_ramp: float = 0.0
    """Share of the perturbed part of a warm-up during which ε rises linearly from 0; from 0 to 1."""
    freeze_batch_norm: bool = False
    """Whether the warm-up keeps the means and variances of batch norm fixed, as suits pretrained weights."""
    anchor: float = 0.0
    """Weight of the squared distance to the embedding that the pretrained network gives the benign image (as in FARE,
    Schlarmann et al. 2024), so that classes unseen in training stay apart; 0 for none."""
    anchor_size: int | None = None
    """Side of the images that the pretrained network embeds for it, pixels; default: that of the training. A larger one
    gives better embeddings."""
    averaging: float = 0.0
    """Decay of the exponential moving average of the weights, which is the result; 0 for the last weights."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch_size", "learning_rate", "scale")
        _at_least(0, self, "weight_decay", "anchor")
        _share(self, "label_smoothing", "benign_share", "averaging")
        _at_least(1, self, "updates")
        _at_least(32, self, "anchor_size", "image_size")
        _up_to_one(self, "epsilon_ramp")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Training with triplets; the benign and the robust model each have their own."""

    warmup_epsilon: Pixels = 0.0
    """ε of the single-step perturbation in the warm-up of this model, in units of pixels in [0,1]; 0 for benign images.
    Models with the same value share a warm-up."""
    warmup_epochs: float | None = None
    """Passes of the warm-up of this model over the training images, 0 for no warm-up; default: the length of
    `warmup`. An option that sets that length clears those of a recipe that are not 0."""
    defense: str = "regular[S]"
    """The defense, in the paper's notation: regular[S], ACT[R], HM[S,g_LGA]&ICS, HM[S,-gamma/2], …"""
    epochs: float = 10.0
    """Passes over the training images; in each, every image is an anchor once."""
    updates: int | None = None
    """Number of updates, in place of `epochs`; 0 leaves the network as it is. An option `epochs` clears that of a
    recipe."""
    pairs: int = 56
    """Pairs of images of the same class in an SPC-2 batch (twice as many images), summed over all processes."""
    learning_rate: float = 1e-3
    """Maximum learning rate of Adam."""
    weight_decay: float = 4e-4
    """Weight decay of Adam (L2)."""
    schedule: Schedule = Schedule.COSINE
    """Schedule of the learning rate; constant in the paper."""
    margin: float = 0.2
    """γ of the triplet loss."""
    epsilon: Pixels = 8 / 255
    """ε, the budget of the perturbation, in units of pixels in [0,1]; without effect for regular[…]."""
    alpha: Pixels = 1 / 255
    """α, the step size of the perturbation, in units of pixels in [0,1]; without effect for regular[…]."""
    steps: int = 8
    """η, the maximum number of PGD steps; without effect for regular[…]."""
    random_start: bool = False
    """Start each perturbation at a random point of its budget. Training with a single step needs it (RS-FGSM, Wong et
    al. 2020)."""
    epsilon_ramp: float = 0.0
    """Share of the stage during which ε and α rise linearly from 0; from 0 to 1."""
    averaging: float = 0.0
    """Decay of the exponential moving average of the weights, which is the result; 0 for the last weights."""
    weight_perturbation: float = 0.0
    """γ of adversarial weight perturbation (AWP, Wu et al. 2020): updates follow the gradient at weights that are worse
    by this share of their norm, for a second forward and backward pass; 0 for none. Usual: 0.005."""
    stop_on_collapse: bool = False
    """Stop with an error when the embeddings collapse; otherwise a warning is logged."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "learning_rate", "margin")
        _at_least(0, self, "weight_decay", "steps", "warmup_epochs", "updates")
        _at_least(2, self, "pairs")  # the negatives of a pair are images of the other pairs
        _pixels(self, "warmup_epsilon", "epsilon", "alpha")
        _share(self, "averaging", "weight_perturbation")
        _up_to_one(self, "epsilon_ramp")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How the attacks measure a model (evaluation: Ten attack results)."""

    attacked: int | None = 500
    """Number of test images to attack, a seeded sample; None (null in a recipe) for all."""
    epsilon: Pixels = 8 / 255
    """ε of the attacks, in units of pixels in [0,1]."""
    alpha: Pixels = 3 / 255
    """α of the attacks, in units of pixels in [0,1]."""
    steps: int = 32
    """η, the number of steps of the attacks."""
    batch: int = 128
    """Images attacked at a time."""
    strong_images: int = 32
    """Number of attacked images that are also attacked with stronger attacks, for the strong ERS; 0 for none."""

    def __post_init__(self) -> None:
        _positive(self, "batch")
        _pixels(self, "epsilon", "alpha")
        if self.strong_images < 0:
            raise ConfigError(f"evaluation needs strong_images ≥ 0, not {self.strong_images}")
        if self.steps < 0 or (self.attacked is not None and self.attacked < 1):
            raise ConfigError(
                f"evaluation needs steps ≥ 0 and attacked ≥ 1 (or null for all), not {self.steps} and {self.attacked}"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines the result of a run."""

    # Unknown fields are errors, in nested options too.
    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = "demo"
    """Name of the run; the bundles are called NAME-benign and NAME-robust."""
    seed: int = 0
    """Determines initial weights, batches, random draws and attacks."""
    data: DataOptions
    """The images and their split by class."""
    preprocessing: Preprocessing
    """How images become squares of pixels; the same in training, evaluation and serving."""
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    """How training images vary."""
    architecture: Architecture = field(default_factory=Architecture)
    """The network."""
    initialisation: str = "warmup"
    """`warmup` (from scratch), `imagenet` (pretrained backbone), `imagenet-warmup` (pretrained, then the warm-up), or
    the folder of a bundle."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the backbone with a pretrained start: safetensors, or a state dict of PyTorch; default: those
    of the library's cache or hub, or of an installed package."""
    freeze_batch_norm: bool | None = None
    """Whether triplet training keeps the means and variances of batch norm fixed; default: yes, except for
    EST-released."""
    warmup: WarmupOptions = field(default_factory=WarmupOptions)
    """Used with `initialisation: warmup` and `imagenet-warmup`."""
    benign: TrainingOptions = field(default_factory=TrainingOptions)
    """Training of the benign model."""
    robust_start: RobustStart = RobustStart.INITIAL
    """Whether the robust model starts from the initial weights or from the benign model."""
    robust_stages: tuple[TrainingOptions, ...] = ()
    """Stages that train the robust model before `robust`, one after the other. Options change the stages of the
    recipe; only a recipe file adds some."""
    robust: TrainingOptions = field(default_factory=lambda: TrainingOptions(defense="HM[S,g_LGA]&ICS"))
    """Training of the robust model."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    """Measurement of both."""

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\ \0") or self.name.startswith("."):
            raise ConfigError(
                f"the name of a run becomes a folder's, so it cannot be {self.name!r}; use letters, digits, - and _"
            )
        _at_least(0, self, "seed")
        if self.weights is not None and not self.is_pretrained:
            raise ConfigError(
                f"weights ({self.weights}) are used with initialisation imagenet or imagenet-warmup, not "
                f"{self.initialisation}"
            )
        epochs = {model.warmup_epochs for model in (self.benign, self.robust)} - {0}
        if self.has_warmup and self.benign.warmup_epsilon == self.robust.warmup_epsilon and len(epochs) > 1:
            raise ConfigError(
                "models with the same warmup_epsilon share a warm-up, so their warmup_epochs must be the same, or 0"
            )
        if self.warmup.anchor and self.initialisation != "imagenet-warmup":
            raise ConfigError(
                "warmup.anchor keeps the embeddings of a pretrained network: use it with initialisation "
                f"imagenet-warmup, not {self.initialisation}"
            )
        if self.preprocessing.crop != self.architecture.image_size:
            raise ConfigError(
                f"preprocessing.crop ({self.preprocessing.crop}) and architecture.image_size "
                f"({self.architecture.image_size}) must be the same number of pixels"
            )
        square, crop = self.augmentation.resize or self.preprocessing.resize, self.preprocessing.crop
        if max(crop, self.warmup.image_size or crop) > square:
            raise ConfigError(
                f"training images become squares of {square} pixels, too small for crops of {crop} (preprocessing.crop)"
                + (f" and {self.warmup.image_size} (warmup.image_size)" if self.warmup.image_size else "")
                + "; make augmentation.resize larger, or preprocessing.resize without it"
            )

    @property
    def training_preprocessing(self) -> Preprocessing:
        """How training images become the squares that crops are taken from."""
        return replace(self.preprocessing, resize=self.augmentation.resize or self.preprocessing.resize)

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone starts from pretrained weights."""
        return self.initialisation in {"imagenet", "imagenet-warmup"}

    @property
    def has_warmup(self) -> bool:
        """Whether a warm-up by classification comes first."""
        return self.initialisation in {"warmup", "imagenet-warmup"}

    def warms_up(self, model: TrainingOptions) -> bool:
        """Whether a model has a warm-up."""
        return self.has_warmup and model.warmup_epochs != 0

    @property
    def is_untrained(self) -> bool:
        """Whether no stage has an update: the benign and the robust model would be the same network."""
        models = (self.benign, self.robust)
        return not any(map(self.warms_up, models)) and all(one.updates == 0 for one in (*models, *self.robust_stages))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The models that a run makes: `benign` and `robust`, or `benign` alone if nothing is trained."""
        return (BENIGN,) if self.is_untrained else (BENIGN, ROBUST)


def _require(options: object, names: tuple[str, ...], holds: Callable[[float], bool], wanted: str) -> None:
    """Raise `ConfigError` for a field whose value is not as wanted; None is always allowed."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not holds(value):
            raise ConfigError(f"{name} must be {wanted}, not {value}")


def _positive(options: object, *names: str) -> None:
    _require(options, names, lambda value: value > 0, "above 0")


def _at_least(least: int, options: object, *names: str) -> None:
    _require(options, names, lambda value: value >= least, f"at least {least}")


def _share(options: object, *names: str) -> None:
    _require(options, names, lambda value: 0 <= value < 1, "from 0 to below 1")


def _up_to_one(options: object, *names: str) -> None:
    _require(options, names, lambda value: 0 <= value <= 1, "from 0 to 1")


def _pixels(options: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) <= 1:
            raise ConfigError(
                f"{name} must be in units of pixels in [0,1], not {getattr(options, name):g}; write 8/255"
            )
