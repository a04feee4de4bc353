"""The main job: images → a benign and a robust embedder → measured → exported as bundles."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from hardrank.models.bundle import check_replaceable, is_made_by, save_bundle
from hardrank.models.card import ArchitectureEntry, Card, FileEntry, PreprocessingEntry
from hardrank.models.embedder import Embedder
from hardrank.models.image_listing import TEST_IMAGES
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import Config, TrainingOptions, config_to_json
from hardrank.trainer.data.dataset import write_test_images
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.export import Parity, export
from hardrank.trainer.job_steps import Job, Measured, make_start, measure, read_images, train
from hardrank.trainer.runtime.environment import hardware, versions
from hardrank.trainer.runtime.launch import MainLaunch, low_precision, make_fabric
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.runtime.run_folder import exclusive, open_run, read_run

if TYPE_CHECKING:
    import lightning as L

BENIGN: Final = "benign"
ROBUST: Final = "robust"


@dataclass(frozen=True)
class Outcome:
    """What a run leaves."""

    folder: Path
    """The run's folder."""
    bundles: dict[str, Path] = field(default_factory=dict)
    """`benign` and `robust` → the bundle's folder; empty in processes other than the first."""


@dataclass(frozen=True, kw_only=True)
class _Export:
    """Where bundles go, and what their cards say of the command."""

    recipe: str
    zoo: Path
    overwrite: bool

    def folder(self, config: Config, kind: str) -> Path:
        return self.zoo / f"{config.name}-{kind}"


def run_main_job(config: Config, launch: MainLaunch, *, recipe: str, report: OnProgress) -> Outcome:
    """Train, evaluate and export both models. Raises subclasses of `HardrankError`; see `MainLaunch` for resuming."""
    for model in (config.benign, config.robust):
        parse_defense(model.defense, margin=model.margin)  # before an hour is spent
    fabric = make_fabric(launch, world=launch.world)
    with exclusive(launch.runs / config.name) if fabric.is_global_zero else nullcontext():
        return _run_main_job(config, launch, fabric, recipe=recipe, report=report)


def _run_main_job(
    config: Config, launch: MainLaunch, fabric: "L.Fabric", *, recipe: str, report: OnProgress
) -> Outcome:
    folder = launch.runs / config.name
    if fabric.is_global_zero:
        open_run(folder, config, resume=launch.resume, overwrite=launch.overwrite)
    fabric.barrier()
    run = read_run(folder, config)
    exported = _Export(recipe=recipe, zoo=launch.zoo, overwrite=launch.overwrite)
    for kind in (BENIGN, ROBUST):
        check_replaceable(exported.folder(config, kind), run.run_id, overwrite=launch.overwrite)
    report = report if fabric.is_global_zero else _silent
    with run.timed("data") if fabric.is_global_zero else nullcontext():
        images = read_images(config, fabric, report)
        if fabric.is_global_zero:
            write_test_images(images.dataset, folder / TEST_IMAGES)
    job = Job(
        config=config,
        run=run,
        fabric=fabric,
        low_precision=low_precision(launch, fabric.device),
        checkpoint_every=launch.checkpoint_every,
        images=images,
        report=report,
    )
    bundles = {}
    for kind, options in ((BENIGN, config.benign), (ROBUST, config.robust)):
        embedder = train(job, make_start(job, options.warmup_epsilon), kind, options)
        if fabric.is_global_zero:
            bundles[kind] = _finish(job, exported, embedder, kind, options)
        fabric.barrier()
    return Outcome(folder, bundles)


def _silent(progress: StageProgress) -> None:
    """Other processes leave the talking to the first."""


def _finish(job: Job, exported: _Export, embedder: Embedder, kind: str, options: TrainingOptions) -> Path:
    """Evaluate and export a model, unless its bundle is there already."""
    folder = exported.folder(job.config, kind)
    if is_made_by(folder, job.run.run_id):
        return folder
    with job.timed(f"{kind} evaluation"):
        measured = measure(job, embedder, kind)
    labels = torch.from_numpy(job.images.dataset.test.labels)
    parities: list[Parity] = []

    def write(unfinished: Path) -> None:
        parities.append(
            export(embedder, unfinished, lambda rows: job.images.test(np.arange(len(labels))[rows]), labels)
        )

    def card(files: dict[str, FileEntry]) -> Card:
        return _card(job, exported.recipe, kind, options, measured, parities[0], files)

    stage = f"{kind} export"
    job.report(StageProgress(stage=stage, done=0, total=1))
    with job.timed(stage):
        save_bundle(folder, card, write, overwrite=exported.overwrite)
    job.report(StageProgress(stage=stage, done=1, total=1))
    return folder


def _card(
    job: Job,
    recipe: str,
    kind: str,
    options: TrainingOptions,
    measured: Measured,
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
        recipe=recipe,
        config=config_to_json(config),
        seeds={"run": config.seed, "data": config.data.seed, "attacks": config.seed},
        architecture=ArchitectureEntry(**vars(config.architecture)),
        preprocessing=PreprocessingEntry(**config.preprocessing.to_dict()),
        data=job.images.dataset.summary(),
        metrics={name: float(value) for name, value in measured.metrics.to_dict().items()},
        robustness=measured.robustness.to_dict(),
        parity=parity.as_dict(),
        training=log.read_last(),
        versions=versions(),
        hardware=hardware(job.fabric.device, low_precision=job.low_precision),
        durations=job.run.durations(),
        files=files,
    )
