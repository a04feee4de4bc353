"""How long a study takes: an update of each row is timed, and the attacks; nothing is written."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from hardrank.models.embedder import Embedder
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import TrainingOptions
from hardrank.trainer.defenses import parse_defense
from hardrank.trainer.defenses.hm import HardnessManipulation
from hardrank.trainer.job_steps import (
    Job,
    build_start,
    loop_options,
    triplet_stage,
    warmup_loop_options,
    warmup_stage,
)
from hardrank.trainer.preflight import attack_seconds, try_stage
from hardrank.trainer.studies.schedule import StudyState
from hardrank.trainer.studies.trial import StudyRun, open_trial
from hardrank.trainer.studies.trial_list import Trial

_HOUR: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class RowEstimate:
    """The time that a row of the study still takes."""

    title: str
    trials: int
    """Trainings that are due, those of the settings grid included."""
    updates: int
    """Of a trial of the table."""
    update_seconds: float
    """Of the last stage of training."""
    measured: bool
    """Whether finished trials say so; otherwise an update was timed, with all PGD steps of all triplets."""
    training_hours: float
    """Of all trainings that are due."""
    attack_hours: float
    """Of their measurements."""


@dataclass(frozen=True, kw_only=True)
class StudyEstimate:
    """The time that a study still takes on this machine, one trial at a time."""

    rows: tuple[RowEstimate, ...]
    start_hours: float
    """Of the warm-ups, which trials share."""

    @property
    def hours(self) -> float:
        """All of it."""
        return self.start_hours + sum(row.training_hours + row.attack_hours for row in self.rows)

    def lines(self) -> list[str]:
        """Return a table."""
        width = max((len(row.title) for row in self.rows), default=3)
        head = f"{'row':{width}}  trainings  updates  s/update  training h  attacks h  sum h"
        lines, total = [head], self.start_hours
        for row in self.rows:
            total += row.training_hours + row.attack_hours
            lines.append(
                f"{row.title:{width}}  {row.trials:9}  {row.updates:7}  {row.update_seconds:7.2f}"
                f"{' ' if row.measured else '*'}  {row.training_hours:10.1f}  {row.attack_hours:9.1f}  {total:5.1f}"
            )
        return [
            *lines,
            f"Initial weights: {self.start_hours:.1f} h. In all: {self.hours:.1f} h, one training at a time.",
            "* timed on a batch, at most: HM leaves out triplets that have reached their destination.",
        ]


def estimate_study(run: StudyRun, state: StudyState, report: OnProgress) -> StudyEstimate:
    """Estimate the time of everything that is due.

    Args:
        run: The study.
        state: Its finished trials, whose times are used, and what is due.
        report: Called with the progress.
    """
    titles = list(dict.fromkeys(trial.row for trial in state.due))
    if not titles:
        return StudyEstimate(rows=(), start_hours=0.0)
    with tempfile.TemporaryDirectory() as folder:
        probe = replace(run, launch=replace(run.launch, runs=Path(folder)))
        job = open_trial(probe, state.due[0], lambda _: None)
        torch.manual_seed(0)
        embedder = build_start(job.config)
        rows = []
        for done, title in enumerate(titles):
            report(StageProgress(stage="timing", done=done, total=len(titles)))
            due = [trial for trial in state.due if trial.row == title]
            rows.append(_estimate_row(title, due, state.done, job, embedder))
        starts = {trial.warmup_key: trial for trial in state.due}
        seconds = _start_seconds(list(starts.values()), job, embedder)
        report(StageProgress(stage="timing", done=len(titles), total=len(titles)))
    return StudyEstimate(rows=tuple(rows), start_hours=seconds / _HOUR)


def _estimate_row(
    title: str, due: Sequence[Trial], done: Mapping[str, Mapping[str, Any]], job: Job, embedder: Embedder
) -> RowEstimate:
    finished = [result for result in done.values() if result["title"] == title and result["log"]]
    options = due[-1].options
    if finished:
        seconds = float(np.mean([result["seconds"]["training"] / result["log"]["step"][-1] for result in finished]))
    else:
        seconds = _update_seconds(options, job, embedder)
    before = sum(_updates(stage, job) * _update_seconds(stage, job, embedder) for stage in due[-1].config.robust_stages)
    training = sum(before + _updates(trial.options, job) * seconds for trial in due)
    attacks = sum(attack_seconds(embedder, replace(job, config=trial.config)) for trial in due)
    return RowEstimate(
        title=title,
        trials=len(due),
        updates=_updates(options, job),
        update_seconds=seconds,
        measured=bool(finished),
        training_hours=training / _HOUR,
        attack_hours=attacks / _HOUR,
    )


def _updates(options: TrainingOptions, job: Job) -> int:
    return triplet_stage(job.images, "robust", options).iterations


def _update_seconds(options: TrainingOptions, job: Job, embedder: Embedder) -> float:
    """Time an update on a whole batch, with all steps of all triplets; 0 for a row that does not train."""
    if not _updates(options, job):
        return 0.0
    defense = parse_defense(options.defense, margin=options.margin)
    names = [options.defense]
    if isinstance(defense, HardnessManipulation):
        names = [f"minmax[{defense.source}]", *([f"regular[{defense.source}]"] if defense.ics else [])]
    seconds = 0.0
    for name in names:
        stage = triplet_stage(job.images, "robust", replace(options, defense=name))
        seconds += try_stage(stage, loop_options(job, stage, options), embedder, job, images=2 * options.pairs).seconds
    return seconds


def _start_seconds(trials: Sequence[Trial], job: Job, embedder: Embedder) -> float:
    """Estimate the seconds of the warm-ups that `trials` start from, one each."""
    by_epsilon: dict[float, float] = {}  # of an update
    seconds = 0.0
    for trial in trials:
        if trial.config.warms_up(trial.options):
            stage = warmup_stage(trial.config, job.images, trial.options)
            if stage.epsilon not in by_epsilon:
                by_epsilon[stage.epsilon] = try_stage(stage, warmup_loop_options(job), embedder, job).seconds
            seconds += stage.iterations * by_epsilon[stage.epsilon]
    return seconds
