"""The main job: images → a benign and a robust embedder → measured → exported as bundles."""

import logging
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import (
    ArchitectureEntry,
    Card,
    FileEntry,
    PreprocessingEntry,
    check_replaceable,
    is_made_by,
    load_embedder,
    save_bundle,
)
from models.embedder import Embedder, build_embedder
from models.errors import HardrankError
from models.files import atomic_path
from models.folded import FoldedEmbedder
from models.preprocessing import to_unit
from trainer.attacks.journal import Journal
from trainer.config import Config, Schedule, TrainingOptions, config_to_json
from trainer.data import load_dataset
from trainer.data.dataset import Dataset
from trainer.data.store import ImageStore
from trainer.defenses import parse_defense
from trainer.environment import gains_from_bf16, hardware, versions
from trainer.export import Parity, export
from trainer.logs import MetricsLog
from trainer.retrieval import RetrievalMetrics, evaluate
from trainer.robustness import EvaluationProgress, RobustnessOptions, Scorecard, measure_robustness
from trainer.runs import CHECKPOINTS, Run, exclusive, open_run, read_run
from trainer.stages import CosineClassifier, Rows, Source, TripletStage, Warmup
from trainer.training import LoopOptions, Progress, Report, Stage, run_stage

_logger = logging.getLogger(__name__)

ROOT: Final = Path(__file__).resolve().parents[1]
BENIGN: Final = "benign"
ROBUST: Final = "robust"


class LaunchError(HardrankError):
    """A device or number of processes that is not there."""


class Precision(StrEnum):
    """Precision of the backbone; heads, distances and losses are always float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How and where a run is carried out; nothing here changes what is asked of it."""

    resume: bool = False
    """Continue the run of this name where it stopped."""
    overwrite: bool = False
    """Start anew, replacing the run and the bundles of this name."""
    runs: Path = ROOT / "runs"
    """Folder of checkpoints and logs; the run gets a folder of its name in it."""
    zoo: Path = ROOT / "models" / "zoo"
    """Folder where the bundles land."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""
    processes: int = 1
    """Processes that train together, on one GPU each or on the CPU; torchrun sets this itself."""
    precision: Precision = Precision.AUTO
    """auto takes bf16 where the hardware gains from it."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves."""

    folder: Path
    """The run's folder."""
    bundles: dict[str, Path] = field(default_factory=dict)
    """`benign` and `robust` → the bundle's folder; empty in processes other than the first."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all parts of the main job share."""

    config: Config
    launch: Launch
    run: Run
    fabric: L.Fabric
    recipe: str
    low_precision: bool
    dataset: Dataset
    test_store: ImageStore
    source: Source
    report: Report

    def test_images(self, rows: Rows) -> Tensor:
        """Centre crops of the test images `rows` (n,) → (n,3,H,W) in [0,1]."""
        pixels = self.test_store.centre(rows, self.config.preprocessing.crop)
        return torch.from_numpy(to_unit(pixels))


def make_fabric(launch: Launch) -> L.Fabric:
    """Set up the processes and the device; raises `LaunchError` where they cannot be had."""
    if launch.device not in {"auto", "cpu", "cuda"}:
        raise LaunchError(f"device is auto, cpu or cuda, not {launch.device!r}")
    if launch.device == "cuda" and not torch.cuda.is_available():
        raise LaunchError("no CUDA device is at hand: leave --device at auto, or check the driver with nvidia-smi")
    accelerator = "cuda" if launch.device != "cpu" and torch.cuda.is_available() else "cpu"
    world = processes(launch)
    if accelerator == "cuda" and world > torch.cuda.device_count():
        raise LaunchError(f"{world} processes need as many GPUs; there are {torch.cuda.device_count()}")
    fabric = L.Fabric(accelerator=accelerator, devices=world, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def processes(launch: Launch) -> int:
    """Number of processes on this machine: torchrun's, or the launch's."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", launch.processes))


def run_main_job(config: Config, launch: Launch, *, recipe: str, report: Report) -> Outcome:
    """Train, evaluate and export both models. Raises subclasses of `HardrankError`; see `Launch` for resuming."""
    for model in (config.benign, config.robust):
        parse_defense(model.defense, margin=model.margin)  # before an hour is spent
    fabric = make_fabric(launch)
    with exclusive(launch.runs / config.name) if fabric.is_global_zero else nullcontext():
        return _run_main_job(config, launch, fabric, recipe=recipe, report=report)


def _run_main_job(config: Config, launch: Launch, fabric: L.Fabric, *, recipe: str, report: Report) -> Outcome:
    folder = launch.runs / config.name
    if fabric.is_global_zero:
        open_run(folder, config, resume=launch.resume, overwrite=launch.overwrite)
    fabric.barrier()
    run = read_run(folder, config)
    for kind in (BENIGN, ROBUST):
        check_replaceable(_bundle(config, launch, kind), run.run_id, overwrite=launch.overwrite)
    job = _prepare(config, launch, run, fabric, recipe, report if fabric.is_global_zero else _silent)
    bundles = {}
    for kind, options in ((BENIGN, config.benign), (ROBUST, config.robust)):
        embedder = _train(job, _initial(job, options.warmup_epsilon), kind, options)
        if fabric.is_global_zero:
            bundles[kind] = _finish(job, embedder, kind, options)
        fabric.barrier()
    return Outcome(folder, bundles)


def _silent(progress: Progress) -> None:
    """Other processes leave the talking to the first."""


def _bundle(config: Config, launch: Launch, kind: str) -> Path:
    return launch.zoo / f"{config.name}-{kind}"


def _prepare(config: Config, launch: Launch, run: Run, fabric: L.Fabric, recipe: str, report: Report) -> _Job:
    """Read the images; the first process goes ahead, for it may have to write them."""

    def at(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: report(Progress(stage=stage, done=done, total=total))

    with run.timed("data") if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            load_dataset(config.data, progress=at("data"))
        fabric.barrier()
        dataset = load_dataset(config.data)
        if fabric.is_global_zero:
            _name_problems(dataset)
        resize, crop = config.preprocessing.resize, config.preprocessing.crop
        train_store = ImageStore(dataset.train, resize, progress=at("training images"))
        test_store = ImageStore(dataset.test, resize, progress=at("test images"))
    return _Job(
        config=config,
        launch=launch,
        run=run,
        fabric=fabric,
        recipe=recipe,
        low_precision=launch.precision is Precision.BF16
        or (launch.precision is Precision.AUTO and gains_from_bf16(fabric.device)),
        dataset=dataset,
        test_store=test_store,
        source=Source(store=train_store, labels=dataset.train.labels, crop=crop, seed=config.seed),
        report=report,
    )


def _name_problems(dataset: Dataset, most: int = 10) -> None:
    """Say what was left out, before the training that does without it; the card holds the whole list."""
    for problem in dataset.problems[:most]:
        detail = f" ({problem.detail})" if problem.detail else ""
        _logger.warning("left out: %s: %s%s", problem.path, problem.kind, detail)
    if len(dataset.problems) > most:
        _logger.warning("… and %d more, all of which the card will list", len(dataset.problems) - most)


def _initial(job: _Job, warmup_epsilon: float) -> Embedder:
    """The weights that a model starts from; a warm-up that is done already is read from its checkpoint."""
    config = job.config
    torch.manual_seed(config.seed)
    if config.initialisation not in {"warmup", "imagenet"}:
        return _from_bundle(Path(config.initialisation), config)
    embedder = build_embedder(config.architecture, imagenet=config.initialisation == "imagenet")
    if config.initialisation == "imagenet":
        return embedder
    classifier = CosineClassifier(len(job.dataset.train.classes), config.architecture.dimension, config.warmup.scale)
    stage = Warmup(source=job.source, options=config.warmup, classifier=classifier, epsilon=warmup_epsilon)
    options = _loop(job, config.warmup.learning_rate, config.warmup.weight_decay, Schedule.COSINE)
    return _run(job, stage, embedder, classifier, options)


def _from_bundle(folder: Path, config: Config) -> Embedder:
    embedder = load_embedder(folder)
    if embedder.architecture != config.architecture:
        raise LaunchError(
            f"the bundle {folder} has the architecture {embedder.architecture}, the configuration "
            f"{config.architecture}; make them the same to start from it"
        )
    return embedder


def _train(job: _Job, start: Embedder, kind: str, options: TrainingOptions) -> Embedder:
    stage = TripletStage(
        name=kind,
        source=job.source,
        options=options,
        defense=parse_defense(options.defense, margin=options.margin),
    )
    freeze = job.config.freeze_batch_norm
    loop = _loop(job, options.learning_rate, options.weight_decay, options.schedule)
    loop = replace(
        loop,
        averaging=options.averaging,
        freeze_batch_norm=freeze is None or freeze,
        stop_on_collapse=options.stop_on_collapse,
    )
    return _run(job, stage, start, None, loop)


def _loop(job: _Job, learning_rate: float, weight_decay: float, schedule: Schedule) -> LoopOptions:
    return LoopOptions(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        low_precision=job.low_precision,
        seed=job.config.seed,
        checkpoint_every=job.launch.checkpoint_every,
    )


def _run(job: _Job, stage: Stage, embedder: Embedder, extra: nn.Module | None, options: LoopOptions) -> Embedder:
    folder = job.run.folder
    with job.run.timed(stage.name) if job.fabric.is_global_zero else nullcontext():
        return run_stage(
            stage,
            embedder,
            extra,
            fabric=job.fabric,
            options=options,
            checkpoint=folder / CHECKPOINTS / f"{stage.name}.ckpt",
            log=MetricsLog(folder / "logs", stage.name),
            report=job.report,
        )


def _finish(job: _Job, embedder: Embedder, kind: str, options: TrainingOptions) -> Path:
    """Evaluate and export a model, unless its bundle is there already."""
    folder = _bundle(job.config, job.launch, kind)
    if is_made_by(folder, job.run.run_id):
        return folder
    with job.run.timed(f"{kind} evaluation"):
        measured = _measure(job, embedder, kind)
    labels = torch.from_numpy(job.dataset.test.labels)
    parities: list[Parity] = []

    def write(unfinished: Path) -> None:
        parities.append(
            export(embedder, unfinished, lambda rows: job.test_images(np.arange(len(labels))[rows]), labels)
        )

    def card(files: dict[str, FileEntry]) -> Card:
        return _card(job, kind, options, measured, parities[0], files)

    stage = f"{kind} export"
    job.report(Progress(stage=stage, done=0, total=1))
    with job.run.timed(stage):
        save_bundle(folder, card, write, overwrite=job.launch.overwrite)
    job.report(Progress(stage=stage, done=1, total=1))
    return folder


@dataclass(frozen=True, kw_only=True)
class _Measured:
    metrics: RetrievalMetrics
    robustness: Scorecard


def _measure(job: _Job, embedder: Embedder, kind: str) -> _Measured:
    """Recall and the rest on all unseen classes, the ten attacks on a seeded sample of their images."""
    config, device = job.config, job.fabric.device
    embedder.eval()
    exact = FoldedEmbedder(embedder)
    swift = FoldedEmbedder(embedder, dtype=torch.bfloat16) if job.low_precision else exact
    labels = torch.from_numpy(job.dataset.test.labels).to(device)
    embeddings = _embed_all(job, exact)
    queries = sample_queries(len(labels), config.evaluation.attacked, seed=config.seed)

    def report(progress: EvaluationProgress) -> None:
        steps = progress.inside.step / config.evaluation.steps
        block = min(config.evaluation.batch, progress.queries - progress.queries_done)
        share = (progress.attacks_done + steps) / progress.attacks
        done = round(progress.queries_done + share * block)
        job.report(Progress(stage=f"attacks on {kind}", done=done, total=progress.queries))

    card = measure_robustness(
        swift,
        lambda rows: job.test_images(rows.cpu().numpy()).to(device, memory_format=torch.channels_last),
        embeddings,
        labels,
        queries.to(device),
        options=RobustnessOptions(
            epsilon=config.evaluation.epsilon, alpha=config.evaluation.alpha, steps=config.evaluation.steps
        ),
        seed=config.seed,
        batch=config.evaluation.batch,
        judge=exact,
        progress=report,
        resume=Journal(job.run.folder / "evaluation" / kind),
    )
    metrics = evaluate(embeddings, labels, seed=config.seed)
    with atomic_path(job.run.folder / "evaluation" / f"{kind}.csv") as unfinished:
        card.per_image.write_csv(unfinished)
    return _Measured(metrics=metrics, robustness=card)


def sample_queries(count: int, wanted: int | None, *, seed: int) -> Tensor:
    """Rows of the test set that are attacked, sorted (n,): all of them, or a seeded sample without replacement."""
    if wanted is None or wanted >= count:
        return torch.arange(count)
    drawn = np.random.default_rng([seed, count]).permutation(count)[:wanted]
    return torch.from_numpy(np.sort(drawn))


@torch.no_grad()
def _embed_all(job: _Job, embedder: FoldedEmbedder, batch: int = 256) -> Tensor:
    rows = np.arange(len(job.dataset.test))
    chunks = (rows[start : start + batch] for start in range(0, len(rows), batch))
    return torch.cat([embedder(job.test_images(chunk).to(job.fabric.device)) for chunk in chunks])


def _card(
    job: _Job,
    kind: str,
    options: TrainingOptions,
    measured: _Measured,
    parity: Parity,
    files: dict[str, FileEntry],
) -> Card:
    config = job.config
    log = MetricsLog(job.run.folder / "logs", kind)
    return Card(
        name=f"{config.name}-{kind}",
        run_id=job.run.run_id,
        created=datetime.now(UTC),
        command=job.run.command,
        defense=parse_defense(options.defense, margin=options.margin).name,
        recipe=job.recipe,
        config=config_to_json(config),
        seeds={"run": config.seed, "data": config.data.seed, "attacks": config.seed},
        architecture=ArchitectureEntry(**vars(config.architecture)),
        preprocessing=PreprocessingEntry(**config.preprocessing.to_dict()),
        data=job.dataset.summary(),
        metrics={name: float(value) for name, value in measured.metrics.to_dict().items()},
        robustness=finite(measured.robustness.to_dict()),
        parity=parity.as_dict(),
        training=log.read_last(),
        versions=versions(),
        hardware=hardware(job.fabric.device, low_precision=job.low_precision),
        durations=job.run.durations(),
        files=files,
    )


def finite(value: Any) -> Any:
    """The same JSON value with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
