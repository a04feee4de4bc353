"""The training loop. It owns the state (weights, optimizer, previous loss, average) and checkpoints all of it.

Batches, crops and draws are functions of (seed, stage, iteration) alone. So the state is small, and a run that was
killed continues to the same weights.
"""

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from hardrank.models.embedder import Embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.config import Schedule
from hardrank.trainer.defenses.defense import PerturbationMemory
from hardrank.trainer.metric.collapse import CollapseError, CollapseReading, CollapseState, observe
from hardrank.trainer.training.checkpoint import restore, save
from hardrank.trainer.training.exchange import exchange, reduce_gradients, share_buffers
from hardrank.trainer.training.precision import network_for_update, set_training_mode
from hardrank.trainer.training.stage import (
    Log,
    PeriodicCallback,
    StepContext,
    StepLoss,
    TrainingError,
    TrainingStage,
    TrainingState,
)
from hardrank.trainer.training.weight_perturbation import worst_weights

if TYPE_CHECKING:
    import lightning as L

_logger: Final = logging.getLogger(__name__)

_RAMP: Final = 20
"""Iterations over which the learning rate rises, since Adam's moments start at zero."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Options of a stage."""

    learning_rate: float
    weight_decay: float
    schedule: Schedule
    averaging: float = 0.0
    freeze_batch_norm: bool = False
    keep_reference: bool = False
    """Whether the stage's loss needs the network as it was at the beginning of the stage."""
    low_precision: bool = False
    """Whether the backbone runs in bf16; head, distances and losses stay in float32."""
    seed: int = 0
    log_every: int = 10
    """Iterations over which a line of the log averages."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""
    stop_on_collapse: bool = False
    """Whether a collapse raises `CollapseError`; otherwise it is logged as a warning."""


def run_stage(
    stage: TrainingStage,
    embedder: Embedder,
    extra: nn.Module | None,
    *,
    fabric: "L.Fabric",
    options: LoopOptions,
    checkpoint: Path,
    log: Log,
    report: OnProgress,
    periodic: PeriodicCallback | None = None,
) -> Embedder:
    """Train `embedder` in place through a stage, from `checkpoint` if it exists.

    Args:
        stage: Batches and loss.
        embedder: The network.
        extra: Parameters of the stage itself, such as the class weights of the warm-up.
        fabric: Device and processes; all processes call this.
        options: Options of the optimizer, the log and checkpoints.
        checkpoint: File for the state, written every `options.checkpoint_every` iterations.
        log: Receives the mean measures every `options.log_every` iterations.
        report: Receives the progress.
        periodic: Called before the first iteration, every few iterations, and after the last.

    Returns:
        The embedder, or the moving average of its weights with `options.averaging`; in evaluation mode.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint cannot be read.
        CollapseError: the embeddings have collapsed, with `options.stop_on_collapse`.
    """
    loop = _Loop.set_up(stage, embedder, extra, fabric=fabric, options=options, checkpoint=checkpoint)
    if fabric.is_global_zero and loop.state.step:
        report(StageProgress(stage=stage.name, done=loop.state.step, total=stage.iterations))
    if loop.finished:
        return loop.result
    if fabric.is_global_zero:
        log.resume(loop.state.step)
    batches = stage.batches(loop.state.step, fabric.global_rank, fabric.world_size)
    if periodic and loop.state.step == 0:
        periodic.call(0, loop.result)
    for _ in range(loop.state.step, stage.iterations):
        images, labels = next(batches)
        loop.update(images, labels)
        if periodic and (loop.finished or loop.state.step % periodic.every == 0):
            periodic.call(loop.state.step, loop.result)
        if loop.line_due:
            loop.write_line(log, report, queries=loop.state.counted * len(images))
        loop.save_if_due()
    fabric.barrier()
    return loop.result


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """A running stage: the weights and `state` change, the rest is fixed."""

    stage: TrainingStage
    embedder: Embedder
    extra: nn.Module | None
    whole: nn.ModuleDict
    """Everything that is trained."""
    average: Embedder | None
    """The moving average of the embedder's weights, if there is one."""
    network: Callable[[Tensor], Tensor]
    frozen: FoldedEmbedder
    reference: FoldedEmbedder | None
    optimizer: torch.optim.Optimizer
    fabric: "L.Fabric"
    options: LoopOptions
    checkpoint: Path
    state: TrainingState

    @classmethod
    def set_up(
        cls,
        stage: TrainingStage,
        embedder: Embedder,
        extra: nn.Module | None,
        *,
        fabric: "L.Fabric",
        options: LoopOptions,
        checkpoint: Path,
    ) -> Self:
        """Move everything to the device, and restore the checkpoint if it exists."""
        embedder.to(fabric.device).to(memory_format=torch.channels_last)
        whole = nn.ModuleDict({"embedder": embedder})
        if extra is not None:
            whole["extra"] = extra.to(fabric.device)
        optimizer = torch.optim.Adam(
            whole.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        average = copy.deepcopy(embedder).requires_grad_(False) if options.averaging else None
        reference = FoldedEmbedder(embedder) if options.keep_reference else None  # before later weights are restored
        state = restore(checkpoint, whole, optimizer, average)
        frozen = FoldedEmbedder(embedder, dtype=torch.bfloat16 if options.low_precision else None)
        return cls(
            stage=stage,
            embedder=embedder,
            extra=extra,
            whole=whole,
            average=average,
            network=network_for_update(
                embedder,
                frozen,
                low_precision=options.low_precision,
                freeze_batch_norm=options.freeze_batch_norm,
            ),
            frozen=frozen,
            reference=reference,
            optimizer=optimizer,
            fabric=fabric,
            options=options,
            checkpoint=checkpoint,
            state=state,
        )

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return self.state.step >= self.stage.iterations

    @property
    def line_due(self) -> bool:
        """Whether a line of the log is due."""
        return self.finished or self.state.step % self.options.log_every == 0

    @property
    def result(self) -> Embedder:
        """The trained embedder, in evaluation mode."""
        return (self.average or self.embedder).eval()

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Take one step of the optimizer, unless no process has a batch to learn from."""
        step, options, device = self.state.step, self.options, self.fabric.device
        set_training_mode(self.embedder, freeze_batch_norm=options.freeze_batch_norm)
        _set_rate(self.optimizer, options, step, self.stage.iterations)
        images, labels = images.to(device, memory_format=torch.channels_last), labels.to(device)
        memory = PerturbationMemory() if self.stage.weight_perturbation else None
        own = self._loss(images, labels, memory)
        losses = exchange(self.fabric, own)
        if not math.isfinite(losses.total):
            raise TrainingError(
                f"the loss of {self.stage.name} is {losses.total} at iteration {step}: lower the learning rate "
                f"({options.learning_rate:g}); the last checkpoint is {self.checkpoint}"
            )
        if losses.count:
            self._gradients(own, processes=losses.count)
            if memory is not None:
                with worst_weights(self.embedder, self.stage.weight_perturbation):
                    again = None if own is None else self._loss(images, labels, replace(memory, recalled=0))
                    self._gradients(again, processes=losses.count)
            self._step()
            self.state.previous_loss = losses.previous_loss
        if own is not None:
            _add_measures(self.state, {**own.measures, "loss": float(own.loss.detach())})
        self.state.step = step + 1

    def _loss(self, images: Tensor, labels: Tensor, memory: PerturbationMemory | None) -> StepLoss | None:
        """Compute the stage's loss, with the same draws each time; a memory may recall the perturbations."""
        state = self.state
        generator = step_generator(self.options.seed, self.stage.name, state.step, self.fabric.global_rank)
        torch.manual_seed(generator.initial_seed())  # of dropout: a resumed stage draws the same
        context = StepContext(
            network=self.network,
            independent=self.options.freeze_batch_norm,
            frozen=self.frozen,
            reference=self.reference,
            state=state,
            generator=generator,
            memory=memory,
        )
        return self.stage.loss(images, labels, context)

    def _gradients(self, own: StepLoss | None, *, processes: int) -> None:
        """Compute the mean gradient of the `processes` that have a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        if own is not None:
            own.loss.backward()
        reduce_gradients(self.fabric, self.whole, processes)

    def _step(self) -> None:
        """Update the weights with their gradients."""
        self.optimizer.step()
        share_buffers(self.fabric, self.whole)
        self.frozen.refresh()
        if self.average is not None:
            _average(self.average, self.embedder, _decay(self.options.averaging, self.state.step))

    def write_line(self, log: Log, report: OnProgress, *, queries: int) -> None:
        """Write a line of the log and report it; raises `CollapseError` if that is an option."""
        name, state = self.stage.name, self.state
        if self.fabric.is_global_zero:
            measures: dict[str, float] = {}
            if state.counted:
                measures = _check_collapse(state, _take_means(state), queries=queries, stage=name)
                log.write(state.step, measures)
            report(StageProgress(stage=name, done=state.step, total=self.stage.iterations, measures=measures))
        if self.options.stop_on_collapse and self.fabric.broadcast(state.collapsed):
            raise CollapseError(
                f"{name} stopped at iteration {state.step}: its embeddings have collapsed. Use a weaker adversary (a "
                "smaller epsilon, or HM[S,g_LGA] instead of min-max) or a lower learning rate"
            )

    def save_if_due(self) -> None:
        """Write the checkpoint if one is due."""
        due = self.finished or self.state.step % self.options.checkpoint_every == 0
        if due and self.fabric.is_global_zero:
            save(self.checkpoint, self.whole, self.optimizer, self.average, self.state)


def step_generator(seed: int, stage: str, step: int, rank: int) -> torch.Generator:
    """Return the random generator of an iteration; it depends on the arguments alone."""
    words = np.random.SeedSequence([seed, *stage.encode(), step, rank]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def _set_rate(optimizer: torch.optim.Optimizer, options: LoopOptions, step: int, total: int) -> None:
    factor = min(1.0, (step + 1) / _RAMP)
    if options.schedule is Schedule.COSINE:
        factor *= 0.5 * (1 + math.cos(math.pi * step / total))
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * factor


def _decay(averaging: float, step: int) -> float:
    """The decay is smaller in the first iterations, so that the average forgets the initial weights."""
    return min(averaging, (1 + step) / (10 + step))


@torch.no_grad()
def _average(average: Embedder, embedder: Embedder, decay: float) -> None:
    for mean, value in zip(average.state_dict().values(), embedder.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _add_measures(state: TrainingState, measures: Mapping[str, float]) -> None:
    for name, value in measures.items():
        state.totals[name] = state.totals.get(name, 0.0) + value
    state.counted += 1


def _take_means(state: TrainingState) -> dict[str, float]:
    means = {name: total / state.counted for name, total in state.totals.items()}
    state.totals, state.counted = {}, 0
    return means


def _check_collapse(state: TrainingState, means: dict[str, float], *, queries: int, stage: str) -> dict[str, float]:
    """Check a line of the log for a collapse, and add `collapsed` to the measures of a collapsed stage."""
    if not {"cosine", "recall", "chance"} <= means.keys():
        return means
    reading = CollapseReading(cosine=means["cosine"], recall=means["recall"], chance=means["chance"])
    verdict = observe(CollapseState(state.collapsed, state.contradicted), reading, queries=queries)
    if verdict.collapsed and not state.collapsed:
        _logger.warning(
            "%s has collapsed by iteration %d: cosine of different classes %.3f, recall %.3f (chance %.3f)",
            *(stage, state.step, reading.cosine, reading.recall, reading.chance),
        )
    state.collapsed, state.contradicted = verdict.collapsed, verdict.streak
    return {**means, "collapsed": 1.0} if verdict.collapsed else means
