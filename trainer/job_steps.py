"""The parts that every training command shares: images → a start → a trained embedder → its measurements."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hardrank.models.bundle import load_embedder
from hardrank.models.embedder import Embedder, build_embedder
from hardrank.models.files import atomic_path
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import to_unit
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import Config, Schedule, TrainingOptions
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import Dataset
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.retrieval import RetrievalMetrics, evaluate
from hardrank.trainer.evaluation.robustness import (
    SEED_CHECK,
    EvaluationProgress,
    RobustnessOptions,
    measure_robustness,
    sample_queries,
)
from hardrank.trainer.evaluation.scorecard import Scorecard
from hardrank.trainer.runtime.launch import LaunchError
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.runtime.run_folder import CHECKPOINTS, Run
from hardrank.trainer.training.loop import LoopOptions, Milestone, Stage, run_stage
from hardrank.trainer.training.stages import CosineClassifier, Rows, Source, TripletStage, Warmup

if TYPE_CHECKING:
    import lightning as L

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a job."""

    dataset: Dataset
    source: Source
    """The training images."""
    test_store: ImageStore
    crop: int
    """Side of the centre crops, pixels."""

    def test(self, rows: Rows) -> Tensor:
        """Centre crops of the test images `rows` (n,) → (n,3,crop,crop) in [0,1]."""
        return torch.from_numpy(to_unit(self.test_store.centre(rows, self.crop)))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parts of a job share."""

    config: Config
    run: Run
    fabric: "L.Fabric"
    low_precision: bool
    """Backbone in bf16."""
    checkpoint_every: int
    """Iterations between checkpoints."""
    images: Images
    report: OnProgress

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Count the seconds of a block; those of the first process."""
        return self.run.timed(stage) if self.fabric.is_global_zero else nullcontext()


def read_images(config: Config, fabric: "L.Fabric", report: OnProgress) -> Images:
    """Read the images of a configuration; the first process goes ahead, for it may have to write them."""

    def at(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: report(StageProgress(stage=stage, done=done, total=total))

    if fabric.is_global_zero:
        load_dataset(config.data, progress=at("data"))
    fabric.barrier()
    dataset = load_dataset(config.data)
    if fabric.is_global_zero:
        _name_problems(dataset)
    resize, crop = config.preprocessing.resize, config.preprocessing.crop
    train_store = ImageStore(dataset.train, resize, progress=at("training images"))
    return Images(
        dataset=dataset,
        source=Source(store=train_store, labels=dataset.train.labels, crop=crop, seed=config.seed),
        test_store=ImageStore(dataset.test, resize, progress=at("test images")),
        crop=crop,
    )


def _name_problems(dataset: Dataset, most: int = 10) -> None:
    """Say what was left out, before the training that does without it; the card holds the whole list."""
    for problem in dataset.problems[:most]:
        detail = f" ({problem.detail})" if problem.detail else ""
        _logger.warning("left out: %s: %s%s", problem.path, problem.kind, detail)
    if len(dataset.problems) > most:
        _logger.warning("… and %d more, all of which the card will list", len(dataset.problems) - most)


def warmup_stage(config: Config, images: Images, epsilon: float) -> Warmup:
    """The warm-up of a configuration, its classifier's directions drawn at random."""
    classes = len(images.dataset.train.classes)
    classifier = CosineClassifier(classes, config.architecture.dimension, config.warmup.scale)
    return Warmup(source=images.source, options=config.warmup, classifier=classifier, epsilon=epsilon)


def triplet_stage(images: Images, kind: str, options: TrainingOptions) -> TripletStage:
    """The triplets of a model, `kind` being the stage's name."""
    defense = parse_defense(options.defense, margin=options.margin)
    return TripletStage(name=kind, source=images.source, options=options, defense=defense)


def make_start(job: Job, warmup_epsilon: float) -> Embedder:
    """The weights that a model starts from; a warm-up that is done already is read from its checkpoint."""
    config = job.config
    torch.manual_seed(config.seed)
    if config.initialisation not in {"warmup", "imagenet"}:
        return _from_bundle(Path(config.initialisation), config)
    embedder = build_embedder(config.architecture, imagenet=config.initialisation == "imagenet")
    if config.initialisation == "imagenet":
        return embedder
    stage = warmup_stage(config, job.images, warmup_epsilon)
    options = _loop(job, config.warmup.learning_rate, config.warmup.weight_decay, Schedule.COSINE)
    return _run(job, stage, embedder, stage.classifier, options)


def _from_bundle(folder: Path, config: Config) -> Embedder:
    embedder = load_embedder(folder)
    if embedder.architecture != config.architecture:
        raise LaunchError(
            f"the bundle {folder} has the architecture {embedder.architecture}, the configuration "
            f"{config.architecture}; make them the same to start from it"
        )
    return embedder


def train(
    job: Job, start: Embedder, kind: str, options: TrainingOptions, *, milestone: Milestone | None = None
) -> Embedder:
    """Train `start` in place with the triplets and the defense of `options`; `kind` names the stage."""
    stage = triplet_stage(job.images, kind, options)
    freeze = job.config.freeze_batch_norm
    loop = _loop(job, options.learning_rate, options.weight_decay, options.schedule)
    loop = replace(
        loop,
        averaging=options.averaging,
        freeze_batch_norm=freeze is None or freeze,
        stop_on_collapse=options.stop_on_collapse,
    )
    return _run(job, stage, start, None, loop, milestone)


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
    stage: Stage,
    embedder: Embedder,
    extra: nn.Module | None,
    options: LoopOptions,
    milestone: Milestone | None = None,
) -> Embedder:
    folder = job.run.folder
    with job.timed(stage.name):
        return run_stage(
            stage,
            embedder,
            extra,
            fabric=job.fabric,
            options=options,
            checkpoint=folder / CHECKPOINTS / f"{stage.name}.ckpt",
            log=MetricsLog(folder / "logs", stage.name),
            report=job.report,
            milestone=milestone,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model can do: retrieval of unseen classes, and what the attacks leave of it."""

    metrics: RetrievalMetrics
    robustness: Scorecard


def measure(job: Job, embedder: Embedder, kind: str, *, seed_check: int = SEED_CHECK) -> Measured:
    """Recall and the rest on all unseen classes, the ten attacks on a seeded sample of their images.

    `seed_check` of them are attacked again with another seed.
    """
    evaluation = job.config.evaluation

    def report(progress: EvaluationProgress) -> None:
        steps = progress.inside.step / evaluation.steps
        block = min(evaluation.batch, progress.queries - progress.queries_done)
        share = (progress.attacks_done + steps) / progress.attacks
        done = round(progress.queries_done + share * block)
        job.report(StageProgress(stage=f"attacks on {kind}", done=done, total=progress.queries))

    measured = take_measure(
        job,
        embedder,
        attacked=evaluation.attacked,
        options=RobustnessOptions(
            epsilon=evaluation.epsilon, alpha=evaluation.alpha, steps=evaluation.steps, seed_check=seed_check
        ),
        progress=report,
        resume=Journal(job.run.folder / "evaluation" / kind),
    )
    with atomic_path(job.run.folder / "evaluation" / f"{kind}.csv") as unfinished:
        measured.robustness.per_image.write_csv(unfinished)
    return measured


def take_measure(
    job: Job,
    embedder: Embedder,
    *,
    attacked: int | None,
    options: RobustnessOptions,
    nmi: bool = True,
    progress: Callable[[EvaluationProgress], None] | None = None,
    resume: Journal | None = None,
) -> Measured:
    """Measure an embedder on the job's test images, `attacked` of which (null: all) meet the ten attacks."""
    config, device = job.config, job.fabric.device
    embedder.eval()
    exact = FoldedEmbedder(embedder)
    swift = FoldedEmbedder(embedder, dtype=torch.bfloat16) if job.low_precision else exact
    labels = torch.from_numpy(job.images.dataset.test.labels).to(device)
    embeddings = _embed_all(job, exact)
    card = measure_robustness(
        swift,
        lambda rows: job.images.test(rows.cpu().numpy()).to(device, memory_format=torch.channels_last),
        embeddings,
        labels,
        sample_queries(len(labels), attacked, seed=config.seed).to(device),
        options=options,
        seed=config.seed,
        batch=config.evaluation.batch,
        judge=exact,
        progress=progress,
        resume=resume,
    )
    return Measured(metrics=evaluate(embeddings, labels, seed=config.seed, nmi=nmi), robustness=card)


@torch.no_grad()
def _embed_all(job: Job, embedder: FoldedEmbedder, batch: int = 256) -> Tensor:
    """Embeddings of all test images, (N,D)."""
    rows = np.arange(len(job.images.dataset.test))
    chunks = (rows[start : start + batch] for start in range(0, len(rows), batch))
    return torch.cat([embedder(job.images.test(chunk).to(job.fabric.device)) for chunk in chunks])
