"""Runs a trial of a study: initial weights → training, measured during training → final measurement → one JSON file."""

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from filelock import FileLock

from hardrank.models.embedder import Embedder
from hardrank.models.files import write_json
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.data.batches import spc2_batches
from hardrank.trainer.evaluation.retrieval import evaluate
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.job_steps import Job, make_start, read_images, train_stages
from hardrank.trainer.measurement import embed_test_images, evaluate_embedder, measure
from hardrank.trainer.metric.collapse import CollapseError
from hardrank.trainer.recipe import config_to_json
from hardrank.trainer.runtime.environment import hardware, versions
from hardrank.trainer.runtime.launch import Launch, make_fabric
from hardrank.trainer.runtime.processes import SINGLE_PROCESS
from hardrank.trainer.runtime.run_folder import CHECKPOINTS, LOGS, Run
from hardrank.trainer.studies.plan import Study
from hardrank.trainer.studies.trial_list import Trial
from hardrank.trainer.training.stage import PeriodicCallback, TrainingError

if TYPE_CHECKING:
    import lightning as L

SCHEMA: Final = "hardrank.trial/1"
_STAGE: Final = "robust"


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """What the trials of a study share: how they run, and where their results are written."""

    study: Study
    launch: Launch
    results: Path
    """Folder of the study's results; those of trials are in `trials/` within it, those of the grid in `choice/`."""

    def result_file(self, trial: Trial) -> Path:
        """Return the path of a trial's result."""
        return self.results / ("trials" if trial.settings is None else "choice") / f"{trial.key}.json"

    def run_folder(self, name: str, trial: Trial) -> Run:
        """Create a folder for checkpoints and logs; `name` identifies everything that its content depends on."""
        folder = self.launch.runs / f"study-{self.study.name}" / name
        folder.mkdir(parents=True, exist_ok=True)
        return Run(folder=folder, run_id=trial.key, command="", created="")


def run_trial(study_run: StudyRun, trial: Trial, report: OnProgress) -> dict[str, Any]:
    """Train and measure a trial, continuing an interrupted one, and write and return its result.

    A training that is stopped because of a collapse, or whose loss diverges, is a result too.
    """
    label = f"{trial.title} · {trial.seed}"
    job = open_trial(study_run, trial, label_stages(report, label))
    embedder = initial_weights(study_run, trial, job)
    start = {} if trial.settings is None else {"start": {"recall_at_1": _recall(job, embedder)}}
    curve = _Curve(study_run, trial, job)
    try:
        trained = train_stages(job, embedder, _STAGE, periodic=curve.callback())
    except (CollapseError, TrainingError) as error:
        return _write_result(study_run, trial, job, {"failure": str(error), "curve": curve.points(), **start})
    # Without attacks from another seed: rows with several seeds show more, and attacks are most of the cost.
    measured = measure(job, trained, _STAGE, seed_check=0)
    attacked = measured.robustness.n
    ers = {"ERS": measured.robustness.ers}
    report(StageProgress(stage=f"{label} · attacks", done=attacked, total=attacked, measures=ers))
    content = {
        "failure": None,
        "metrics": {name: float(value) for name, value in measured.metrics.to_dict().items()},
        "robustness": measured.robustness.to_dict(),
        "curve": curve.points(),
        **start,
    }
    return _write_result(study_run, trial, job, content)


def _recall(job: Job, embedder: Embedder) -> float:
    """Return the Recall@1 of the test images, or of the validation classes in their place."""
    embeddings = embed_test_images(job, FoldedEmbedder(embedder.to(job.fabric.device).eval()))
    labels = torch.from_numpy(job.images.dataset.test.labels).to(embeddings.device)
    return evaluate(embeddings, labels, nmi=False).recall_at_1


def open_trial(study_run: StudyRun, trial: Trial, report: OnProgress) -> Job:
    """Read the images of a trial, and open its run folder."""
    fabric: L.Fabric = make_fabric(study_run.launch)
    return Job(
        config=trial.config,
        run=study_run.run_folder(trial.key, trial),
        fabric=fabric,
        low_precision=study_run.launch.precision.is_bf16(fabric.device),
        checkpoint_every=study_run.launch.checkpoint_every,
        images=read_images(trial.config, SINGLE_PROCESS, lambda _: None),
        report=report,
    )


def label_stages(report: OnProgress, label: str) -> OnProgress:
    """Name the stages of a trial after it, and keep the attacks unfinished until their ERS is known."""

    def relabel(progress: StageProgress) -> None:
        name, done = "attacks", progress.done
        if progress.stage.startswith("warmup"):
            name = "warm-up"
        elif progress.stage.startswith(_STAGE):
            name = "training"
        else:
            done = min(done, progress.total - 1)
        report(replace(progress, stage=f"{label} · {name}", done=done))

    return relabel


def initial_weights(study_run: StudyRun, trial: Trial, job: Job) -> Embedder:
    """Return the embedder that a trial starts from; trials that share a warm-up train it once."""
    shared = study_run.run_folder(trial.warmup_key, trial)
    with FileLock(shared.folder / ".lock"):
        return make_start(replace(job, run=shared), trial.options)


def _write_result(study_run: StudyRun, trial: Trial, job: Job, content: dict[str, Any]) -> dict[str, Any]:
    start = study_run.run_folder(trial.warmup_key, trial).durations()
    seconds = job.run.durations()
    measuring = seconds.get("looks", 0.0)
    whole = {
        "schema": SCHEMA,
        "title": trial.title,
        "defense": trial.options.defense,
        "seed": trial.seed,
        "key": trial.key,
        "steps": trial.options.steps,
        "cost": trial.cost,
        "config": config_to_json(trial.config),
        "seconds": {"start": sum(start.values()), "training": round(seconds.get(_STAGE, 0.0) - measuring, 1)},
        "log": _read_log(job.run.folder / LOGS / f"{_STAGE}.csv"),
        **content,
        "hardware": hardware(job.fabric.device, low_precision=job.low_precision),
        "versions": versions(),
    }
    whole["config"]["data"]["root"] = None  # a path of this machine, which means nothing to readers
    write_json(study_run.result_file(trial), whole)
    shutil.rmtree(job.run.folder / CHECKPOINTS, ignore_errors=True)
    return whole


def _read_log(path: Path) -> dict[str, list[float | None]]:
    """Return the training log by columns; missing values are None."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]} if rows else {}


class _Curve:
    """Measurements during training: recall on the whole test set, robustness on a few images."""

    def __init__(self, study_run: StudyRun, trial: Trial, job: Job) -> None:
        self._study, self._trial, self._job = study_run.study, trial, job
        self._folder = job.run.folder / "curve"

    def callback(self) -> PeriodicCallback | None:
        """Return the callback that measures, or None if the study has no curves."""
        if not self._study.curve_epochs or self._trial.settings is not None:
            return None
        every = round(self._study.curve_epochs * self._batches)
        return PeriodicCallback(every=max(1, every), call=self._record)

    @property
    def _batches(self) -> int:
        options, labels = self._trial.options, self._job.images.source.labels
        return len(spc2_batches(labels, pairs=options.pairs, epoch=0, seed=self._trial.seed))

    def points(self) -> list[dict[str, float]]:
        """Return all measurements in order, including those before an interruption."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda point: point["step"])

    def _record(self, step: int, embedder: Embedder) -> None:
        with self._job.timed("looks"):
            point = {"step": step, "epoch": round(step / self._batches, 3), **self._measure(embedder)}
        write_json(self._folder / f"{step:06d}.json", point)

    def _measure(self, embedder: Embedder) -> dict[str, float]:
        evaluation = self._trial.config.evaluation
        measured = evaluate_embedder(
            self._job,
            embedder,
            attacked=self._study.curve_attacked,
            options=RobustnessOptions(
                epsilon=evaluation.epsilon,
                alpha=evaluation.alpha,
                steps=evaluation.steps,
                seed_check=0,
                sanity_images=0,
            ),
            nmi=False,
        )
        return {
            "ers": measured.robustness.ers,
            "recall_at_1": float(measured.metrics.recall_at_1),
            "cosine": measured.robustness.mean_cosine,
        }
