"""The interface between the training loop and its stages: batches and a loss, and what both need."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hardrank.models.embedder import Embedder
from hardrank.models.errors import HardrankError
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.defenses.defense import PerturbationMemory


class TrainingError(HardrankError):
    """A stage of training that cannot continue: a checkpoint of another configuration, or a loss that is not finite."""


@dataclass
class TrainingState:
    """What changes during a stage, besides weights and optimizer."""

    step: int = 0
    """Iterations done."""
    previous_loss: float = 2.0
    """l of the gradual adversary: the last triplet loss; 2 before the first."""
    totals: dict[str, float] = field(default_factory=dict)
    """Sums of the measures since the last line of the log."""
    counted: int = 0
    """Iterations in `totals`; those without triplets do not count."""
    collapsed: bool = False
    """Whether the embeddings have collapsed, judged by the lines of the log."""
    contradicted: int = 0
    """Number of the latest consecutive lines of the log that contradict `collapsed`."""


@dataclass(frozen=True)
class PeriodicCallback:
    """A function that is called every few iterations of a stage."""

    every: int
    """Iterations between calls; there is also one before the first iteration and one after the last."""
    call: Callable[[int, Embedder], None]
    """Receives the iterations done, and the embedder that would be the result now, in evaluation mode."""


class Log(Protocol):
    """A log of training measures."""

    def resume(self, step: int) -> None:
        """Prepare for the first line; the stage continues after `step` iterations."""

    def write(self, step: int, measures: Mapping[str, float]) -> None:
        """Add a line for `step`."""


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """The networks, state and random generator with which a stage computes its loss."""

    network: Callable[[Tensor], Tensor]
    """φ in training mode, in the precision of training."""
    independent: bool = False
    """Whether `network` embeds each image regardless of the others in its batch."""
    frozen: FoldedEmbedder
    """φ in evaluation mode, with the current weights."""
    reference: FoldedEmbedder | None = None
    """φ in evaluation mode, with the weights at the beginning of the stage; None without `keep_reference`."""
    state: TrainingState
    generator: torch.Generator
    """Random generator of this iteration, on the CPU."""
    memory: PerturbationMemory | None = None
    """The perturbations of this iteration, with `TrainingStage.weight_perturbation`."""


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch."""

    loss: Tensor
    """Scalar, with gradient."""
    previous_loss: float
    """The `TrainingState.previous_loss` of the next iteration."""
    measures: Mapping[str, float]


class TrainingStage(Protocol):
    """A stage of training: its batches and its loss."""

    @property
    def name(self) -> str:
        """Name of the checkpoint and the log."""

    @property
    def iterations(self) -> int:
        """Number of iterations."""

    @property
    def weight_perturbation(self) -> float:
        """γ of adversarial weight perturbation; 0 for none."""

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B,3,H,W) in [0,1] and their labels or rows (B,) from iteration `start` on, endlessly."""

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss | None:
        """Return the loss of a batch, or None if it holds nothing to learn from."""
