"""Attacks a gallery's images block by block: resumably, shared by processes, and reported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.models.errors import HardrankError
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims
from hardrank.trainer.attacks.runner import (
    AttackOptions,
    AttackProgress,
    AttackResult,
    HasNoise,
    Method,
    check_images,
    run_attack,
)
from hardrank.trainer.attacks.starts import random_noise
from hardrank.trainer.evaluation.journal import Columns, Journal
from hardrank.trainer.evaluation.scorecard import PerImage
from hardrank.trainer.metric.distances import recall_at_1
from hardrank.trainer.runtime.processes import Processes

ImageProvider = Callable[[Tensor], Tensor]
"""Gallery rows (n,) → their images (n,3,H,W), floats in [0,1]."""

MOST_DISTANCES: Final = 1 << 24
"""How many distances an attack may hold at once: 64 MiB in float32."""


class CancelledError(HardrankError):
    """The evaluation was cancelled; its journal, if it has one, keeps the finished blocks."""


def cancelled() -> CancelledError:
    """Return the error of a cancelled evaluation."""
    return CancelledError("the evaluation was cancelled; its journal, if it has one, keeps the finished blocks")


class EvaluationPhase(StrEnum):
    """What an evaluation does, in this order."""

    ATTACKS = "attacks"
    SANITY = "sanity runs"
    OTHER_SEED = "attacks with another seed"
    STRONG = "stronger attacks"
    LEARNING = "learning"
    """Of universal perturbations."""


@dataclass(frozen=True)
class EvaluationProgress:
    """The state of a running evaluation."""

    attack: str
    attacks_done: int
    """Attacks finished on these queries."""
    attacks: int
    queries_done: int
    """Queries on which all attacks are finished."""
    queries: int
    inside: AttackProgress | None
    """The running attack; None in the sanity runs, of which `queries_done` counts the steps in units of queries."""
    phase: EvaluationPhase
    part: tuple[float, float] = (0.0, 1.0)
    """Where the running attack's part of these queries begins and ends, in shares of them: a block is attacked in parts
    that fit the memory."""

    def done(self, batch: int, steps: int, *, budget: int | None = None) -> float:
        """Return how many queries' worth of the phase is done, the running attack included.

        Args:
            batch: Queries attacked at a time.
            steps: Of each attack.
            budget: Queries to the model for each image, in a black-box search.
        """
        if self.inside is None:
            return self.queries_done
        share = self.inside.step / max(1, steps)
        if budget is not None and self.inside.queries is not None:
            share = float(self.inside.queries.max()) / budget
        begin, end = self.part
        share = begin + (end - begin) * min(1.0, share)
        block = min(batch, self.queries - self.queries_done)
        return self.queries_done + (self.attacks_done + share) / self.attacks * block


@dataclass(frozen=True)
class EvaluationTask:
    """What attacks on blocks of victims need."""

    embed: Embed
    judge: Embed
    images: ImageProvider
    gallery: Gallery
    attacks: Mapping[str, Attack]
    options: AttackOptions
    batch: int
    progress: Callable[[EvaluationProgress], None] | None
    cancel: Callable[[], bool]
    method: Method | None
    processes: Processes
    phase: EvaluationPhase = EvaluationPhase.ATTACKS

    def report(
        self,
        attack: str,
        done: int,
        queries: int,
        inside: AttackProgress | None,
        *,
        phase: EvaluationPhase | None = None,
        place: int = 0,
        attacks: int = 1,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Report progress; see `EvaluationProgress`."""
        if self.progress is not None:
            self.progress(EvaluationProgress(attack, place, attacks, done, queries, inside, phase or self.phase, part))


class BlockResults:
    """The columns of one attack, filled block by block; a row for each victim."""

    def __init__(self, victims: Victims) -> None:
        self._places = {row: i for i, row in enumerate(victims.own.tolist())}
        self.finished = np.zeros(len(victims), dtype=bool)
        self.columns: dict[str, np.ndarray] = {}

    def put(self, rows: np.ndarray, columns: Columns) -> None:
        """Fill in the results of the gallery rows `rows` (n,); rows that are no victims are ignored."""
        known = np.array([row in self._places for row in rows.tolist()], dtype=bool)
        places = [self._places[row] for row in rows[known].tolist()]
        for name, values in columns.items():
            whole = self.columns.setdefault(name, np.zeros((len(self.finished), *values.shape[1:]), values.dtype))
            whole[places] = values[known]
        self.finished[places] = True

    @property
    def passes(self) -> int:
        """Forward and backward passes that the results took."""
        return int(self.columns["passes"].sum())


def attack_all(
    task: EvaluationTask, victims: Victims, done: Mapping[str, BlockResults], *, seed: int, resume: Journal | None
) -> None:
    """Fill `done` with the results of every attack on every victim.

    Each process attacks a block of its own, and they exchange the results after each attack on a block.
    """
    processes = task.processes
    for begin in range(0, len(victims), task.batch * processes.size):
        blocks = slice(begin, begin + task.batch * processes.size)
        missing = [name for name in task.attacks if not done[name].finished[blocks].all()]
        own = begin + task.batch * processes.rank
        part = slice(own, own + task.batch)
        mine = {name for name in missing if not done[name].finished[part].all()}
        block = victims[part]
        rows = block.own.cpu().numpy()
        if mine:
            images = task.images(block.own)
            check_images(images, block)
            with torch.no_grad():
                noise = task.method.noise if isinstance(task.method, HasNoise) else random_noise
                noisy = task.judge(noise(images, task.options, block.ids, seed=seed))
        for place, name in enumerate(missing, start=len(task.attacks) - len(missing)):
            found: list[tuple[np.ndarray, Columns]] = []
            if name in mine:
                report = partial(task.report, name, begin, len(victims), place=place, attacks=len(task.attacks))
                found.append((rows, _attack_block(task, name, images, noisy, block, seed=seed, report=report)))
            for of_process in processes.gather(found):
                for attacked, columns in of_process:
                    done[name].put(attacked, columns)
                    if resume is not None and processes.is_first:
                        resume.record(name, attacked, columns)


def _attack_block(
    task: EvaluationTask,
    name: str,
    images: Tensor,
    noisy: Tensor,
    block: Victims,
    *,
    seed: int,
    report: Callable[..., None],
) -> dict[str, np.ndarray]:
    """Run one attack on a block of victims, in parts that fit the memory, and return its columns."""
    attack = task.attacks[name]
    size = max(1, MOST_DISTANCES // max(1, attack.width * len(task.gallery)))
    parts: list[dict[str, Tensor]] = []
    for begin in range(0, len(block), size):
        part = slice(begin, begin + size)
        victims = block[part]
        result = (task.method or run_attack)(
            attack,
            task.embed,
            images[part],
            victims,
            task.gallery,
            task.options,
            seed=seed,
            judge=task.judge,
            on_step=partial(report, part=(begin / len(block), (begin + len(victims)) / len(block))),
            cancel=task.cancel,
        )
        if result.cancelled:
            raise cancelled()
        with torch.no_grad():
            noise = attack.measure(noisy[part], victims, task.gallery, result.targets)
            losses = _losses(attack, victims, task.gallery, result, noisy[part])
        parts.append({"noise": noise, **losses, **result.columns()})
    return {k: torch.cat([part[k] for part in parts]).cpu().numpy() for k in parts[0]}


def _losses(
    attack: Attack, victims: Victims, gallery: Gallery, result: AttackResult, noisy: Tensor
) -> dict[str, Tensor]:
    """Return the attack's losses (n,) of the benign, the noisy and the attacked images."""
    objective = attack.objective(victims, gallery, result.targets)
    rows = torch.arange(len(victims), device=victims.own.device)
    points = {"benign": victims.embeddings, "noise": noisy, "final": result.embeddings}
    later = 1  # objectives treat the first gradient step, 0, specially
    return {f"{name} loss": objective(embeddings[:, None], rows, later) for name, embeddings in points.items()}


def table_of(task: EvaluationTask, victims: Victims, done: Mapping[str, BlockResults]) -> PerImage:
    """Collect the results by query into columns."""
    columns: dict[str, np.ndarray] = {}
    for name, attack in task.attacks.items():
        gathered = done[name].columns
        for i, figure in enumerate(attack.figures):
            for kind, suffix in (("after", ""), ("before", " before"), ("noise", " noise")):
                columns[figure.key + suffix] = gathered[kind][:, i].astype(np.float64)
        columns |= {f"{name} {k}": gathered[k] for k in gathered if k not in {"after", "before", "noise", "passes"}}
    points, labels = task.gallery.embeddings, task.gallery.labels
    benign = recall_at_1(victims.embeddings, points, labels, victims.own, victims.labels)
    columns["R@1"] = 100.0 * benign.double().cpu().numpy()
    return PerImage(rows=victims.own.cpu().numpy(), labels=victims.labels.cpu().numpy(), columns=columns)


def rows_of(table: PerImage, places: np.ndarray) -> PerImage:
    """Return some rows of a table."""
    columns = {name: values[places] for name, values in table.columns.items()}
    return PerImage(rows=table.rows[places], labels=table.labels[places], columns=columns)
