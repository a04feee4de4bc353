"""The steps that the training commands share: images → initial weights → a trained embedder."""

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from hardrank.models.bundle import load_embedder
from hardrank.models.embedder import Embedder, build_embedder
from hardrank.models.image_listing import ImageProblemKind
from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, to_unit
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import Config, RobustStart, Schedule, TrainingOptions
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import Dataset
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.runtime.launch import LaunchError
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.runtime.processes import SINGLE_PROCESS, Processes
from hardrank.trainer.runtime.run_folder import CHECKPOINTS, LOGS, Run
from hardrank.trainer.training.loop import LoopOptions, run_stage
from hardrank.trainer.training.pretrained_start import FILE_NAME, PretrainedStart, StartOptions, pretrained_start
from hardrank.trainer.training.stage import PeriodicCallback, TrainingStage
from hardrank.trainer.training.stages import CosineClassifier, Rows, TrainingImages, TripletStage, WarmupStage

if TYPE_CHECKING:
    import lightning as L

_logger = logging.getLogger(__name__)
_WARNINGS: Final = 10
"""Images left out that are logged, at most."""


@dataclass(frozen=True, kw_only=True)
class JobImages:
    """The images of a job."""

    dataset: Dataset
    source: TrainingImages
    """The training images."""
    test_store: ImageStore
    crop: int
    """Side of the center crops, pixels."""

    def test(self, rows: Rows) -> Tensor:
        """Center crops of the test images `rows` (n,) → (n,3,crop,crop) in [0,1]."""
        return torch.from_numpy(to_unit(self.test_store.center(rows, self.crop)))


@dataclass(frozen=True, kw_only=True)
class Job:
    """The configuration, images and resources that the steps of a job share."""

    config: Config
    run: Run
    fabric: "L.Fabric"
    low_precision: bool
    """Whether the backbone runs in bf16."""
    checkpoint_every: int
    """Iterations between checkpoints."""
    images: JobImages
    report: OnProgress
    processes: Processes = SINGLE_PROCESS

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Record the duration of a block, in the first process."""
        return self.run.timed(stage) if self.processes.is_first else nullcontext()


def read_images(config: Config, processes: Processes, report: OnProgress) -> JobImages:
    """Read the images of a configuration. The first process goes ahead, since it may have to draw and write them."""

    def at(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: report(StageProgress(stage=stage, done=done, total=total))

    if processes.is_first:
        load_dataset(config.data, progress=at("data"))
    processes.wait()
    dataset = load_dataset(config.data)
    if processes.is_first:
        _warn_of_problems(dataset)
    preprocessing, crop = config.preprocessing, config.preprocessing.crop
    return JobImages(
        dataset=dataset,
        source=TrainingImages(
            store=ImageStore(dataset.train, config.training_preprocessing, progress=at("training images")),
            labels=dataset.train.labels,
            crop=crop,
            seed=config.seed,
            augmentation=config.augmentation,
        ),
        test_store=ImageStore(dataset.test, preprocessing, progress=at("test images")),
        crop=crop,
    )


def _warn_of_problems(dataset: Dataset) -> None:
    """Log the first images that were left out, before training starts; the card lists all of them."""
    for problem in dataset.problems[:_WARNINGS]:
        detail = f" ({problem.detail})" if problem.detail else ""
        _logger.warning("left out: %s: %s", problem.path, _REMEDIES.get(problem.kind, f"{problem.kind}{detail}"))
    if len(dataset.problems) > _WARNINGS:
        _logger.warning("… and %d more; the card will list all of them", len(dataset.problems) - _WARNINGS)


_REMEDIES: Final[Mapping[ImageProblemKind, str]] = {
    ImageProblemKind.EMPTY: "the folder has no images; add at least two, or remove it",
    ImageProblemKind.SINGLE: "the only image of its class; add another one, which it can be compared with",
    ImageProblemKind.NO_CLASS: "the image is in no class folder; move it into the folder of its class",
    ImageProblemKind.OUTSIDE: "the folder is beside train and test; move it into one of them, or remove it",
}


def warmup_stage(
    config: Config, images: JobImages, model: TrainingOptions, targets: Tensor | None = None
) -> WarmupStage:
    """Return the warm-up of a model; its classifier starts from the class means of `targets`, or at random."""
    warmup = config.warmup
    if model.warmup_epochs is not None:
        warmup = replace(warmup, epochs=model.warmup_epochs, updates=None)
    if targets is None:
        classes = len(images.dataset.train.classes)
        classifier = CosineClassifier.random(classes, config.architecture.dimension, warmup.scale)
    else:
        classifier = CosineClassifier.of_means(targets, torch.from_numpy(images.source.labels), warmup.scale)
    source = replace(images.source, crop=warmup.image_size or images.source.crop)
    return WarmupStage(
        source=source, options=warmup, classifier=classifier, epsilon=model.warmup_epsilon, targets=targets
    )


def triplet_stage(images: JobImages, kind: str, options: TrainingOptions) -> TripletStage:
    """Return the triplet stage of a model; `kind` is the stage's name."""
    defense = parse_defense(options.defense, margin=options.margin)
    return TripletStage(name=kind, source=images.source, options=options, defense=defense)


def make_start(job: Job, model: TrainingOptions, *, periodic: PeriodicCallback | None = None) -> Embedder:
    """Return the embedder that `model` starts from; a finished warm-up is read from its checkpoint.

    `periodic` is called during the warm-up.
    """
    config = job.config
    torch.manual_seed(config.seed)
    embedder = build_start(config)
    targets = _set_pretrained_head(job, embedder) if config.is_pretrained else None
    if not config.warms_up(model):
        return embedder
    stage = warmup_stage(config, job.images, model, targets)
    return _run(job, stage, embedder, stage.classifier, warmup_loop_options(job), periodic)


def build_start(config: Config) -> Embedder:
    """Return the network before any training: that of a bundle, or a pretrained or random one with a random head.

    Raises:
        BackboneError: The backbone is unknown, cannot take the image size, or its weights are not available.
        BundleError: The bundle cannot be read.
        LaunchError: The bundle has another architecture.
    """
    if not (config.is_pretrained or config.has_warmup):
        return _from_bundle(Path(config.initialisation), config)
    return build_embedder(config.architecture, imagenet=config.is_pretrained, weights=config.weights)


def warmup_loop_options(job: Job) -> LoopOptions:
    """Return the options with which the loop runs a warm-up."""
    warmup = job.config.warmup
    options = _loop(job, warmup.learning_rate, warmup.weight_decay, Schedule.COSINE)
    return replace(options, freeze_batch_norm=warmup.freeze_batch_norm, averaging=warmup.averaging)


def loop_options(job: Job, stage: TripletStage, options: TrainingOptions) -> LoopOptions:
    """Return the options with which the loop runs a triplet stage."""
    freeze = job.config.freeze_batch_norm
    return replace(
        _loop(job, options.learning_rate, options.weight_decay, options.schedule),
        averaging=options.averaging,
        keep_reference=stage.defense.needs_reference,
        freeze_batch_norm=not stage.defense.trains_batch_norm if freeze is None else freeze,
        stop_on_collapse=options.stop_on_collapse,
    )


def _set_pretrained_head(job: Job, embedder: Embedder) -> Tensor | None:
    """Give a pretrained network its head; return the targets of a warm-up with an anchor.

    They are computed once, since the features of all training images take as long as many updates.
    """
    file = job.run.folder / CHECKPOINTS / FILE_NAME
    start: PretrainedStart | None = None
    if job.processes.is_first:
        if not file.exists():
            pretrained_start(embedder, start_options(job), progress=job.report).write(file)
        start = PretrainedStart.read(file)
    (start, *_) = job.processes.gather(start)
    assert start is not None
    start.apply(embedder)
    return start.targets


def start_options(job: Job) -> StartOptions:
    """Return what the start of a pretrained network is computed from."""
    config = job.config
    is_anchored = config.warmup.anchor > 0 and any(map(config.warms_up, (config.benign, config.robust)))
    return StartOptions(
        split=job.images.dataset.train,
        preprocessing=config.preprocessing,
        dimension=config.architecture.dimension,
        keep_targets=is_anchored,
        target_size=config.warmup.anchor_size if is_anchored else None,
        seed=config.seed,
        device=job.fabric.device,
    )


def _from_bundle(folder: Path, config: Config) -> Embedder:
    embedder = load_embedder(folder)
    expected = config.architecture
    if (expected.mean, expected.std) == (IMAGENET_MEAN, IMAGENET_STD):  # the default: those of the bundle
        expected = replace(expected, mean=embedder.architecture.mean, std=embedder.architecture.std)
    if embedder.architecture != expected:
        raise LaunchError(
            f"cannot start from the bundle {folder}: its architecture is {embedder.architecture}, that of the "
            f"configuration {config.architecture}"
        )
    return embedder


def train(
    job: Job, start: Embedder, kind: str, options: TrainingOptions, *, periodic: PeriodicCallback | None = None
) -> Embedder:
    """Train `start` in place with the triplets and the defense of `options`; `kind` is the stage's name."""
    stage = triplet_stage(job.images, kind, options)
    return _run(job, stage, start, None, loop_options(job, stage, options), periodic)


def train_robust(job: Job, benign: Embedder | None, kind: str) -> Embedder:
    """Train the robust model: `robust_stages` one after the other, then `robust`.

    Args:
        job: The job.
        benign: The benign model, from which training starts with `robust_start: benign`; it is not changed.
        kind: The name of the last stage; those before it are called KIND-1, KIND-2, …
    """
    config = job.config
    if config.robust_start is RobustStart.BENIGN:
        assert benign is not None
        embedder = copy.deepcopy(benign)
    else:
        embedder = make_start(job, config.robust)
    return train_stages(job, embedder, kind)


def train_stages(job: Job, embedder: Embedder, kind: str, *, periodic: PeriodicCallback | None = None) -> Embedder:
    """Train `embedder` through `robust_stages` and `robust`; see `train_robust`.

    `periodic` is called during the last stage.
    """
    for number, options in enumerate(job.config.robust_stages, start=1):
        embedder = train(job, embedder, f"{kind}-{number}", options)
    return train(job, embedder, kind, job.config.robust, periodic=periodic)


def _loop(job: Job, learning_rate: float, weight_decay: float, schedule: Schedule) -> LoopOptions:
    return LoopOptions(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        low_precision=job.low_precision,
        seed=job.config.seed,
        checkpoint_every=job.checkpoint_every,
    )


def _run(
    job: Job,
    stage: TrainingStage,
    embedder: Embedder,
    extra: nn.Module | None,
    options: LoopOptions,
    periodic: PeriodicCallback | None = None,
) -> Embedder:
    folder = job.run.folder
    with job.timed(stage.name):
        trained = run_stage(
            stage,
            embedder,
            extra,
            fabric=job.fabric,
            options=options,
            checkpoint=folder / CHECKPOINTS / f"{stage.name}.ckpt",
            log=MetricsLog(folder / LOGS, stage.name),
            report=job.report,
            periodic=periodic,
        )
    return trained.requires_grad_(True)  # a moving average has no gradients, but may be the start of the next stage
