"""Carrying out a trial: start → train, with looks on the way → measure → one JSON file that a reviewer can read."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from hardrank.models.embedder import Embedder
from hardrank.models.files import write_json
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.preprocessing import to_unit
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import config_to_json
from hardrank.trainer.data.batches import spc2_batches
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.job_steps import Images, Job, make_start, measure, read_images, take_measure, train
from hardrank.trainer.metric.collapse import CollapseError
from hardrank.trainer.metric.losses import hardness
from hardrank.trainer.metric.samplers import Sampler, draw_triplets
from hardrank.trainer.runtime.environment import hardware, versions
from hardrank.trainer.runtime.launch import Launch, low_precision, make_fabric
from hardrank.trainer.runtime.run_folder import CHECKPOINTS, Run
from hardrank.trainer.studies.plan import Study, Trial
from hardrank.trainer.training.loop import Milestone, TrainingError

if TYPE_CHECKING:
    import lightning as L

SCHEMA = "hardrank.trial/1"
_STAGE = "robust"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the trials of a study share: how they are carried out, and where results go."""

    study: Study
    launch: Launch
    results: Path
    """Folder of the study's results; trials lie in `trials/` in it."""
    threads: int = 0
    """Of this process; 0 leaves torch's choice."""

    def place(self, trial: Trial) -> Path:
        """The file of a trial's result."""
        return self.results / "trials" / f"{trial.key}.json"

    def run(self, name: str, trial: Trial) -> Run:
        """A folder for checkpoints and logs, named by all that decides what lies in it."""
        folder = self.launch.runs / f"study-{self.study.name}" / name
        folder.mkdir(parents=True, exist_ok=True)
        return Run(folder=folder, run_id=trial.key, command="", created="")


def carry_out(bench: Bench, trial: Trial, report: OnProgress) -> dict[str, Any]:
    """Train and measure a trial, going on where it was interrupted, and write its result.

    A training that collapses (where asked to stop) or whose loss is no longer finite is a result too.
    """
    if bench.threads:
        torch.set_num_threads(bench.threads)
    fabric = make_fabric(bench.launch)
    label = f"{trial.title} · {trial.seed}"
    images = read_images(trial.config, fabric, _quiet)
    job = _job(bench, trial, fabric, images, bench.run(trial.key, trial), _within(report, label))
    embedder = _start(bench, trial, job)
    curve = _Curve(bench, trial, job)
    try:
        trained = train(job, embedder, _STAGE, trial.options, milestone=curve.milestone())
    except (CollapseError, TrainingError) as error:
        return _written(bench, trial, job, {"failure": str(error), "curve": curve.points()})
    # No attack with a second seed: the rows with several seeds show more than that, and attacks are most of the cost.
    measured = measure(job, trained, _STAGE, seed_check=0)
    attacked = measured.robustness.n
    ers = {"ERS": measured.robustness.ers}
    report(StageProgress(stage=f"{label} · attacks", done=attacked, total=attacked, measures=ers))
    content = {
        "failure": None,
        "metrics": {name: float(value) for name, value in measured.metrics.to_dict().items()},
        "robustness": measured.robustness.to_dict(),
        "curve": curve.points(),
    }
    return _written(bench, trial, job, content)


def _quiet(progress: StageProgress) -> None:
    """Reading the images takes seconds."""


def _job(bench: Bench, trial: Trial, fabric: "L.Fabric", images: Images, run: Run, report: OnProgress) -> Job:
    return Job(
        config=trial.config,
        run=run,
        fabric=fabric,
        low_precision=low_precision(bench.launch, fabric.device),
        checkpoint_every=bench.launch.checkpoint_every,
        images=images,
        report=report,
    )


def _within(report: OnProgress, label: str) -> OnProgress:
    """A line for each stage of a trial, for what is left of one says nothing of the next."""

    def at(progress: StageProgress) -> None:
        name, done = "attacks", progress.done
        if progress.stage.startswith("warmup"):
            name = "warm-up"
        elif progress.stage == _STAGE:
            name = "training"
        else:
            done = min(done, progress.total - 1)  # the last comes with the ERS
        report(replace(progress, stage=f"{label} · {name}", done=done))

    return at


def _start(bench: Bench, trial: Trial, job: Job) -> Embedder:
    """The start that trials share is trained once; who comes second waits for it."""
    shared = bench.run(trial.warmup_key, trial)
    with FileLock(shared.folder / ".lock"):
        return make_start(replace(job, run=shared), trial.options.warmup_epsilon)


def _written(bench: Bench, trial: Trial, job: Job, content: dict[str, Any]) -> dict[str, Any]:
    start = bench.run(trial.warmup_key, trial).durations()
    seconds = job.run.durations()
    looks = seconds.get("looks", 0.0)
    whole = {
        "schema": SCHEMA,
        "title": trial.title,
        "defense": trial.options.defense,
        "seed": trial.seed,
        "key": trial.key,
        "steps": trial.options.steps,
        "cost": trial.cost,
        "config": config_to_json(trial.config),
        "seconds": {"start": sum(start.values()), "training": round(seconds.get(_STAGE, 0.0) - looks, 1)},
        "log": _log(job.run.folder / "logs" / f"{_STAGE}.csv"),
        **content,
        "hardware": hardware(job.fabric.device, low_precision=job.low_precision),
        "versions": versions(),
    }
    whole["config"]["data"]["root"] = None  # where the images lie here is nobody's business
    write_json(bench.place(trial), whole)
    shutil.rmtree(job.run.folder / CHECKPOINTS, ignore_errors=True)
    return whole


def _log(path: Path) -> dict[str, list[float | None]]:
    """The training log by columns; a measure that a line lacks is null."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]} if rows else {}


class _Curve:
    """Looks at a model on its way: recall on the whole test set, robustness on a few images."""

    def __init__(self, bench: Bench, trial: Trial, job: Job) -> None:
        self._study, self._trial, self._job = bench.study, trial, job
        self._folder = job.run.folder / "curve"

    def milestone(self) -> Milestone | None:
        """When to look; None where the study asks for no curve."""
        if not self._study.curve_epochs:
            return None
        every = round(self._study.curve_epochs * self._batches)
        return Milestone(every=max(1, every), look=self._look)

    @property
    def _batches(self) -> int:
        options, labels = self._trial.options, self._job.images.source.labels
        return len(spc2_batches(labels, pairs=options.pairs, epoch=0, seed=self._trial.seed))

    def points(self) -> list[dict[str, float]]:
        """What was seen, in order; looks of a sitting before are on disk."""
        import json

        found = [json.loads(path.read_text(encoding="utf-8")) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda point: point["step"])

    def _look(self, step: int, embedder: Embedder) -> None:
        with self._job.timed("looks"):
            point = {"step": step, "epoch": round(step / self._batches, 3), **self._measure(embedder)}
        write_json(self._folder / f"{step:06d}.json", point)

    def _measure(self, embedder: Embedder) -> dict[str, float]:
        evaluation = self._trial.config.evaluation
        measured = take_measure(
            self._job,
            embedder,
            attacked=self._study.curve_attacked,
            options=RobustnessOptions(
                epsilon=evaluation.epsilon, alpha=evaluation.alpha, steps=evaluation.steps, seed_check=0
            ),
            nmi=False,
        )
        return {
            "ers": measured.robustness.ers,
            "recall_at_1": float(measured.metrics.recall_at_1),
            "cosine": measured.robustness.mean_cosine,
        }


def sampler_hardness(bench: Bench, trial: Trial, report: OnProgress) -> dict[str, dict[str, float]]:
    """Mean and variance of H(A,P,N) of each sampler's triplets over batches, at the start of training.

    As in the paper's measurement, batches are SPC-2 of the training images; here without augmentation. The variance
    is over the means of batches.
    """
    if bench.threads:
        torch.set_num_threads(bench.threads)
    fabric = make_fabric(bench.launch)
    images = read_images(trial.config, fabric, _quiet)
    job = _job(bench, trial, fabric, images, bench.run(trial.key, trial), _within(report, "samplers"))
    embedder = FoldedEmbedder(_start(bench, trial, job).eval())
    source = images.source
    rows = np.arange(len(source.labels))
    with torch.no_grad():
        parts = [
            embedder(torch.from_numpy(to_unit(source.store.centre(part, source.crop))).to(fabric.device)).cpu()
            for part in np.array_split(rows, max(1, len(rows) // 256))
        ]
    return hardness_by_sampler(
        torch.cat(parts),
        torch.from_numpy(source.labels),
        pairs=trial.options.pairs,
        batches=bench.study.sampler_batches,
        seed=trial.seed,
        report=lambda done, total: report(StageProgress(stage="samplers", done=done, total=total)),
    )


def hardness_by_sampler(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    pairs: int,
    batches: int,
    seed: int,
    report: Callable[[int, int], None],
) -> dict[str, dict[str, float]]:
    """Mean and variance over batches of the mean hardness of triplets, by sampler, on embeddings (N,D)."""
    generator = torch.Generator().manual_seed(seed)
    means: dict[str, list[float]] = {sampler.value: [] for sampler in Sampler}
    epoch, done = 0, 0
    while done < batches:
        for chosen in spc2_batches(labels.numpy(), pairs=pairs, epoch=epoch, seed=seed)[: batches - done]:
            batch, classes = embeddings[chosen], labels[chosen]
            for sampler in Sampler:
                triplets = draw_triplets(sampler, batch, classes, generator=generator)
                means[sampler.value].append(float(hardness(*triplets.gather(batch)).mean()))
            done += 1
            report(done, batches)
        epoch += 1
    return {
        name: {"mean": float(np.mean(values)), "variance": float(np.var(values)), "batches": len(values)}
        for name, values in means.items()
    }
