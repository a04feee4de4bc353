"""The stages of training: a warm-up by classification, then triplets with a defense."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardrank.trainer.attacks.pgd import Norm, PGDOptions, project
from hardrank.trainer.config import TrainingOptions, WarmupOptions
from hardrank.trainer.data.augmentation import AugmentationOptions, augment
from hardrank.trainer.data.batches import spc2_batches
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import Conditions, Defense
from hardrank.trainer.training.stage import StepContext, StepLoss

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
"""Row numbers or labels, (N,) int64."""


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """The training images, cropped and mirrored at random, and varied further with `augmentation`."""

    store: ImageStore
    labels: Rows
    """(N,) from 0 to C − 1."""
    crop: int
    """Side of the random crops, pixels."""
    seed: int
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)

    def images(self, rows: Rows, stage: str, step: int, rank: int) -> Tensor:
        """Return random crops and flips of `rows` (B,), as (B,3,crop,crop) in [0,1]; the arguments alone decide."""
        generator = np.random.default_rng([self.seed, *stage.encode(), step, rank])
        return augment(self.store[rows], self.crop, self.augmentation, generator)


def ramp(progress: float, share: float) -> float:
    """Return the factor of a value that rises linearly from 0 during the first `share` of a stage, and then stays 1."""
    return min(1.0, progress / share) if share else 1.0


class CosineClassifier(nn.Module):
    """Logits as scaled cosines of embeddings and class directions.

    Args:
        directions: (C,D), not necessarily of length 1.
        scale: Factor of the cosines.
    """

    def __init__(self, directions: Tensor, scale: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(directions)
        self.scale = scale

    @classmethod
    def random(cls, classes: int, dimension: int, scale: float) -> Self:
        """Return a classifier with random directions."""
        return cls(torch.randn(classes, dimension) / math.sqrt(dimension), scale)

    @classmethod
    def of_means(cls, embeddings: Tensor, labels: Tensor, scale: float) -> Self:
        """Return a classifier whose directions are the mean `embeddings` (N,D) of the classes `labels` (N,)."""
        sums = embeddings.new_zeros(int(labels.max()) + 1, embeddings.shape[1]).index_add_(0, labels, embeddings)
        return cls(F.normalize(sums, dim=1), scale)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N,D) on the unit sphere → (N,C)."""
        return self.scale * embeddings @ F.normalize(self.directions, dim=1).T


@dataclass(frozen=True, kw_only=True)
class WarmupStage:
    """Classification of the training classes with a cosine softmax: initial weights for training from scratch.

    With ε > 0 the batches after the first `benign_share` are perturbed by one signed gradient step from a random start
    ("fast" adversarial training, Wong et al. 2020), which makes the initial weights more robust. The first ones stay
    benign, as in Gupta et al. 2020, since a perturbed iteration takes half as long again.

    With `targets` the loss adds `options.anchor` times the squared distance to them, on benign and perturbed images
    (FARE, Schlarmann et al. 2024, eq. 3): classification alone keeps apart only the classes that it is shown.
    """

    weight_perturbation: ClassVar[float] = 0.0
    source: TrainingImages
    options: WarmupOptions
    classifier: CosineClassifier
    epsilon: float = 0.0
    """ε of the perturbation, in units of pixels in [0,1]; 0 for benign images."""
    targets: Tensor | None = None
    """(N,D) embeddings that the training images are to keep, on the unit sphere; None without `options.anchor`."""

    @property
    def name(self) -> str:
        """`warmup`, followed by ε in 1/255 if it is not 0."""
        return f"warmup-{255 * self.epsilon:g}" if self.epsilon else "warmup"

    @property
    def iterations(self) -> int:
        """Number of iterations."""
        if self.options.updates is not None:
            return self.options.updates
        return max(1, round(self.options.epochs * self._batches_per_epoch))

    @property
    def _batches_per_epoch(self) -> int:
        return max(1, len(self.source.labels) // self.options.batch_size)

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield slices of each epoch's permutation, divided among the processes: images, and their rows (B,)."""
        size = self.options.batch_size
        for step in itertools.count(start):
            epoch, index = divmod(step, self._batches_per_epoch)
            order = np.random.default_rng([self.source.seed, *self.name.encode(), epoch]).permutation(
                len(self.source.labels)
            )
            rows = order[index * size : (index + 1) * size][rank::world_size]
            yield self.source.images(rows, self.name, step, rank), torch.from_numpy(rows)

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss:
        """Return the cross-entropy of the scaled cosines, and the distance to the targets; `labels` are rows."""
        rows = labels.cpu()
        classes = torch.from_numpy(self.source.labels)[rows].to(images.device)
        targets = None if self.targets is None else self.targets[rows].to(images.device)
        first = self.options.benign_share * self.iterations
        if self.epsilon and context.state.step >= first:
            progress = (context.state.step - first) / (self.iterations - first)
            epsilon = self.epsilon * ramp(progress, self.options.epsilon_ramp)
            images = self._perturbed(images, classes, targets, context, epsilon)
        embeddings = context.network(images)
        loss = self._objective(embeddings, classes, targets, smoothing=self.options.label_smoothing)
        measures = {"accuracy": _share_right(self.classifier(embeddings), classes)}
        if targets is not None:
            measures["shift"] = _squared_distance(embeddings, targets).item()
        return StepLoss(loss, context.state.previous_loss, measures)

    def _objective(self, embeddings: Tensor, classes: Tensor, targets: Tensor | None, *, smoothing: float) -> Tensor:
        loss = F.cross_entropy(self.classifier(embeddings), classes, label_smoothing=smoothing)
        return loss if targets is None else loss + self.options.anchor * _squared_distance(embeddings, targets)

    def _perturbed(
        self, images: Tensor, classes: Tensor, targets: Tensor | None, context: StepContext, epsilon: float
    ) -> Tensor:
        start = torch.rand(images.shape, generator=context.generator).to(images.device)
        x = (images + epsilon * (2 * start - 1)).clamp(0, 1).requires_grad_(True)
        loss = self._objective(context.frozen(x), classes, targets, smoothing=0.0)
        (gradient,) = torch.autograd.grad(loss, x)
        return project(x.detach() + 1.25 * epsilon * gradient.sign(), images, epsilon=epsilon, norm=Norm.LINF)


def _share_right(logits: Tensor, classes: Tensor) -> float:
    return (logits.detach().argmax(1) == classes).float().mean().item()


def _squared_distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    return (embeddings - targets).square().sum(dim=1).mean()


@dataclass(frozen=True, kw_only=True)
class TripletStage:
    """Training with triplets and a defense."""

    name: str
    source: TrainingImages
    options: TrainingOptions
    defense: Defense

    @cached_property  # used in every iteration, and computed by drawing an epoch
    def iterations(self) -> int:
        """Number of iterations."""
        if self.options.updates is not None:
            return self.options.updates
        return max(1, round(self.options.epochs * len(self._epoch(0, 0, 1))))

    @property
    def weight_perturbation(self) -> float:
        """γ of adversarial weight perturbation."""
        return self.options.weight_perturbation

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield SPC-2 batches, epoch after epoch."""
        first, skipped = divmod(start, len(self._epoch(0, rank, world_size)))
        step = start
        for epoch in itertools.count(first):
            for rows in self._epoch(epoch, rank, world_size)[skipped:]:
                yield (
                    self.source.images(rows, self.name, step, rank),
                    torch.from_numpy(self.source.labels[rows]),
                )
                step += 1
            skipped = 0

    def _epoch(self, epoch: int, rank: int, world_size: int) -> list[Rows]:
        pairs = max(2, self.options.pairs // world_size)
        return spc2_batches(
            self.source.labels,
            pairs=pairs,
            epoch=epoch,
            seed=self.source.seed,
            rank=rank,
            world_size=world_size,
        )

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss | None:
        """Return the defense's loss; None for a batch without triplets."""
        options, progress = self.options, context.state.step / self.iterations
        share = ramp(progress, options.epsilon_ramp)
        conditions = Conditions(
            network=context.network,
            independent=context.independent,
            frozen=context.frozen,
            attack=PGDOptions(epsilon=options.epsilon * share, alpha=options.alpha * share, steps=options.steps),
            random_start=options.random_start,
            reference=context.reference,
            previous_loss=context.state.previous_loss,
            margin=options.margin,
            generator=context.generator,
            iteration=context.state.step,
            progress=progress,
            memory=context.memory,
        )
        outcome = self.defense(images, labels, conditions)
        if outcome is None:
            return None
        triplet_loss = float(outcome.triplet_loss)
        return StepLoss(outcome.loss, triplet_loss, {**outcome.measures, "triplet_loss": triplet_loss})
