"""The main job: images → a benign and a robust embedder → measured → exported as bundles."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hardrank.models.bundle import check_replaceable, is_made_by, save_bundle
from hardrank.models.card import ArchitectureEntry, Card, FileEntry, InitialWeightsEntry, PreprocessingEntry
from hardrank.models.embedder import Embedder
from hardrank.models.errors import HardrankError
from hardrank.models.image_listing import TEST_IMAGES
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import BENIGN, ROBUST, Config, TrainingOptions
from hardrank.trainer.data.dataset import write_test_images
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.export import Parity, export
from hardrank.trainer.job_steps import Job, make_start, read_images, train, train_robust
from hardrank.trainer.measurement import Measurement, measure
from hardrank.trainer.preflight import check_before_training
from hardrank.trainer.recipe import changed_fields, config_to_json, parse_config
from hardrank.trainer.runtime.environment import hardware, versions
from hardrank.trainer.runtime.launch import MainLaunch, make_fabric
from hardrank.trainer.runtime.metrics_log import MetricsLog
from hardrank.trainer.runtime.processes import Processes
from hardrank.trainer.runtime.run_folder import CHECKPOINTS, LOGS, PREFLIGHT, exclusive, open_run, read_run
from hardrank.trainer.runtime.time_left import TimeLeft

if TYPE_CHECKING:
    import lightning as L


@dataclass(frozen=True)
class MainJobResult:
    """The folders that the main job leaves."""

    folder: Path
    """The run's folder."""
    bundles: dict[str, Path] = field(default_factory=dict)
    """`benign` and `robust`, or `benign` alone if nothing is trained → the bundle's folder; empty in processes other
    than the first."""


@dataclass(frozen=True, kw_only=True)
class _Export:
    """Where bundles are written, and the recipe that their cards name."""

    recipe: str
    zoo: Path
    overwrite: bool

    def folder(self, config: Config, kind: str) -> Path:
        return self.zoo / f"{config.name}-{kind}"


def run_main_job(config: Config, launch: MainLaunch, *, recipe: str, report: OnProgress) -> MainJobResult:
    """Train, evaluate and export a benign and a robust model, or one network if nothing is trained.

    With several processes, each of them calls this with the same arguments.

    Args:
        config: What to compute.
        launch: How to run; also whether to resume or overwrite.
        recipe: Name of the recipe, for the cards.
        report: Called with the progress, in the first process only.

    Raises:
        HardrankError: a subclass of it, for an invalid configuration, images that cannot be read, a run that must not
            be overwritten, a loss that diverges, or an export that differs from the network.
    """
    for model in (config.benign, *config.robust_stages, config.robust):
        parse_defense(model.defense, margin=model.margin)  # an invalid name must not show after hours
    fabric = make_fabric(launch, world=launch.world)
    processes = Processes.of(fabric)
    exported = _Export(recipe=recipe, zoo=launch.zoo, overwrite=launch.overwrite)
    with _run_folder(launch.runs / config.name) if processes.is_first else nullcontext():
        job = _open_job(config, launch, exported, fabric, processes, report if processes.is_first else _no_report)
        if launch.preflight and not any((job.run.folder / CHECKPOINTS).glob("*")):
            with job.timed("checks"):
                check_before_training(job, launch.zoo)
        estimated = job.run.folder / PREFLIGHT  # also that of a run that is resumed
        if processes.is_first and estimated.is_file():
            seconds = json.loads(estimated.read_text(encoding="utf-8"))["seconds_by_stage"]
            job = replace(job, report=TimeLeft(seconds, report))
        return _run(job, exported)


def plan_main_job(config: Config, launch: MainLaunch, *, report: OnProgress) -> None:
    """Check a run and report how long it will take, without leaving files.

    Args:
        config: What to compute.
        launch: How to run.
        report: Called with the progress, at last with the estimate.

    Raises:
        HardrankError: as `run_main_job`.
    """
    with TemporaryDirectory() as folder:
        elsewhere = replace(launch, runs=Path(folder), resume=False)
        exported = _Export(recipe="", zoo=Path(folder) / "zoo", overwrite=False)
        fabric = make_fabric(launch)
        job = _open_job(config, elsewhere, exported, fabric, Processes.of(fabric), report)
        check_before_training(job, launch.zoo)


@contextmanager
def _run_folder(folder: Path) -> Iterator[None]:
    """Lock a run's folder; remove it after an error before the first checkpoint, if it did not exist before."""
    existed = folder.exists()
    try:
        with exclusive(folder):
            yield
    except HardrankError:
        if not existed and not any((folder / CHECKPOINTS).glob("*")):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # holds other runs
                folder.parent.rmdir()
        raise


def _open_job(
    config: Config,
    launch: MainLaunch,
    exported: _Export,
    fabric: "L.Fabric",
    processes: Processes,
    report: OnProgress,
) -> Job:
    """Open the run's folder and read the images."""
    folder = launch.runs / config.name

    def find_changes(recorded: Any) -> list[str]:
        return changed_fields(parse_config(recorded, source=f"the configuration of {folder}"), config)

    if processes.is_first:
        open_run(folder, config_to_json(config), find_changes, resume=launch.resume, overwrite=launch.overwrite)
    processes.wait()
    run = read_run(folder, find_changes)
    for kind in config.kinds:
        check_replaceable(exported.folder(config, kind), run.run_id, overwrite=exported.overwrite)
    with run.timed("data") if processes.is_first else nullcontext():
        images = read_images(config, processes, report)
        if processes.is_first:
            write_test_images(images.dataset, folder / TEST_IMAGES)
    return Job(
        config=config,
        run=run,
        fabric=fabric,
        processes=processes,
        low_precision=launch.precision.is_bf16(fabric.device),
        checkpoint_every=launch.checkpoint_every,
        images=images,
        report=report,
    )


def _no_report(progress: StageProgress) -> None:
    """Only the first process reports."""


def _run(job: Job, exported: _Export) -> MainJobResult:
    config = job.config
    bundles = {}
    benign: Embedder | None = None
    for kind in config.kinds:
        options = config.benign if kind == BENIGN else config.robust
        folder = exported.folder(config, kind)
        if kind == BENIGN:
            embedder = benign = train(job, make_start(job, options), kind, options)
        else:
            embedder = train_robust(job, benign, kind)
        if not job.processes.gather(is_made_by(folder, job.run.run_id))[0]:
            with job.timed(f"{kind} evaluation"):
                measured = measure(job, embedder, kind)
            if job.processes.is_first:
                _write_bundle(job, exported, embedder, kind, options, measured)
        if job.processes.is_first:
            bundles[kind] = folder
        job.processes.wait()
    return MainJobResult(job.run.folder, bundles)


def _write_bundle(
    job: Job, exported: _Export, embedder: Embedder, kind: str, options: TrainingOptions, measured: Measurement
) -> None:
    """Export a model, verify the export, and write the card."""
    folder = exported.folder(job.config, kind)
    labels = torch.from_numpy(job.images.dataset.test.labels)
    parities: list[Parity] = []

    def write(unfinished: Path) -> None:
        parities.append(
            export(embedder, unfinished, lambda rows: job.images.test(np.arange(len(labels))[rows]), labels)
        )

    def card(files: dict[str, FileEntry]) -> Card:
        return _card(job, exported.recipe, embedder, kind, options, measured, parities[0], files)

    stage = f"{kind} export"
    job.report(StageProgress(stage=stage, done=0, total=1))
    with job.timed(stage):
        save_bundle(folder, card, write, overwrite=exported.overwrite)
    job.report(StageProgress(stage=stage, done=1, total=1))


def _card(
    job: Job,
    recipe: str,
    embedder: Embedder,
    kind: str,
    options: TrainingOptions,
    measured: Measurement,
    parity: Parity,
    files: dict[str, FileEntry],
) -> Card:
    config = job.config
    stages = config.robust_stages if kind == ROBUST else ()
    log, source = MetricsLog(job.run.folder / LOGS, kind), embedder.weights_source
    return Card(
        name=f"{config.name}-{kind}",
        run_id=job.run.run_id,
        created=datetime.now(UTC),
        command=job.run.command,
        defense=_training(config, (*stages, options)),
        recipe=recipe,
        config=config_to_json(config),
        seeds={"run": config.seed, "data": config.data.seed, "attacks": config.seed},
        architecture=ArchitectureEntry(**vars(embedder.architecture)),
        preprocessing=PreprocessingEntry(**vars(config.preprocessing)),
        initial_weights=InitialWeightsEntry(**asdict(source)) if source else None,
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


def _training(config: Config, stages: Sequence[TrainingOptions]) -> str:
    """Return the defenses of the stages that have updates, in the paper's notation."""
    names = [parse_defense(one.defense, margin=one.margin).name for one in stages if one.updates != 0]
    return ", then ".join(names) or ("warm-up" if config.warms_up(stages[-1]) else "not trained")
