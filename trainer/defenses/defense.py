"""The interface of defenses: one training batch → the loss whose gradient updates the network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.models.errors import HardrankError
from hardrank.trainer.attacks.pgd import Objective, PGDOptions, pgd, project
from hardrank.trainer.metric.collapse import read_collapse
from hardrank.trainer.metric.losses import MARGIN, hardness
from hardrank.trainer.metric.samplers import Triplets


class DefenseError(HardrankError):
    """A defense that does not exist, or whose options do not fit together."""


@dataclass
class PerturbationMemory:
    """The perturbed images of an iteration, for a second pass with other weights on the same images."""

    images: list[Tensor] = field(default_factory=list)
    """In the order of the calls of `Conditions.perturb`."""
    recalled: int | None = None
    """How many of them the second pass has taken; None during the first pass."""

    def recall(self) -> Tensor | None:
        """Return the next images in a second pass; None in the first."""
        if self.recalled is None:
            return None
        self.recalled += 1
        return self.images[self.recalled - 1]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Networks, options and state of an iteration, provided by the training loop."""

    network: Callable[[Tensor], Tensor]
    """φ in training mode, for the update."""
    independent: bool = False
    """Whether `network` embeds each image regardless of the others in its batch, as with frozen batch norm."""
    frozen: Embed
    """φ in evaluation mode with the same weights, without parameter gradients, for the perturbation."""
    attack: PGDOptions
    """ε, α and η of training."""
    previous_loss: float
    """l, the triplet part of the loss before (2 before the first)."""
    margin: float = MARGIN
    """γ of the triplet loss."""
    random_start: bool = False
    """Whether a perturbation starts at a random point of its budget."""
    reference: Embed | None = None
    """φ with the weights at the beginning of the stage, for defenses that stay close to it (`FARE`)."""
    generator: torch.Generator | None = None
    """Random generator of the samplers and of random starts, on the CPU."""
    iteration: int = 0
    """Iterations of the stage that are done, for defenses that alternate."""
    progress: float = 0.0
    """Share of the stage that is done, 0 … 1."""
    memory: PerturbationMemory | None = None
    """Perturbations of this iteration; None if there is one pass only."""

    def perturb(self, images: Tensor, objective: Objective, *, moving: Tensor | None = None) -> Tensor:
        """Return `images` (G,K,3,H,W), perturbed by PGD so that each group's objective falls; see `pgd`."""
        if self.memory is not None and (known := self.memory.recall()) is not None:
            return known
        start = None
        if self.random_start:
            flat = images.flatten(0, 1)
            offset = 2 * torch.rand(flat.shape, generator=self.generator).to(flat) - 1
            moved = flat + self.attack.epsilon * offset
            start = project(moved, flat, epsilon=self.attack.epsilon, norm=self.attack.norm).view_as(images)
        found = pgd(self.frozen, images, objective, self.attack, moving=moving, start=start)
        if self.memory is not None:
            self.memory.images.append(found)
        return found


@dataclass(frozen=True)
class DefenseResult:
    """The loss of a batch, and measures for the log."""

    loss: Tensor
    """Scalar, with gradient: what the update minimizes."""
    triplet_loss: Tensor
    """Scalar, detached: the triplet part of the loss, which is l in the next iteration."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """For the log: mean hardness before and after, destination, …"""


class Defense(Protocol):
    """A frozen value with a name, called once for each batch.

    Derive from this class, which says what a stage does for most defenses.
    """

    @property
    def name(self) -> str:
        """The paper's notation, as `parse_defense` reads it."""

    @property
    def needs_reference(self) -> bool:
        """Whether `conditions.reference` is used, the network at the beginning of the stage."""
        return False

    @property
    def trains_batch_norm(self) -> bool:
        """Whether the means and variances of batch norm are updated unless the configuration says otherwise."""
        return False

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """Return the loss of an SPC-2 batch, `images` (2T,3,H,W) in [0,1] and `labels` (2T,).

        None if the batch contains no triplet (a single class), before any call of `conditions.network`. The loop then
        skips the update.
        """


@torch.no_grad()
def embed_benign(images: Tensor, conditions: Conditions) -> Tensor:
    """Embed the benign batch (2T,3,H,W) in evaluation mode, as (2T,D), for the samplers."""
    return conditions.frozen(images)


def embed_perturbed(
    images: Tensor, sources: Tensor, perturbed: Tensor, benign_rows: Tensor, conditions: Conditions
) -> Tensor:
    """Embed, for the update, perturbed images and then benign ones, in one batch.

    Many perturbations are none: those of triplets that are hard enough already. Where embeddings are independent, such
    an image is embedded once, with the benign one that it equals; losses and gradients are the same, except that both
    share the draws of dropout.

    Args:
        images: The benign batch (B,3,H,W).
        sources: Rows (P,) of the images that were perturbed.
        perturbed: (P,3,H,W), made of `images[sources]`.
        benign_rows: Rows (Q,) of the images that are embedded as they are.
        conditions: The network, and whether it is independent.

    Returns:
        Embeddings (P+Q,D) with gradient.
    """
    if not conditions.independent:
        return conditions.network(torch.cat([perturbed, images[benign_rows]]))
    moved = (perturbed != images[sources]).flatten(1).any(1)
    own = len(images) + torch.arange(len(perturbed), device=images.device)
    rows = torch.cat([torch.where(moved, own, sources), benign_rows])
    distinct, places = rows.unique(return_inverse=True)
    return conditions.network(torch.cat([images, perturbed])[distinct])[places]


def benign_measures(benign: Tensor, labels: Tensor, triplets: Triplets) -> dict[str, float]:
    """Return what every defense logs of the benign batch (2T,D): mean `hardness`, and the measures of a collapse."""
    before = hardness(*triplets.gather(benign)).mean().item()
    return {"hardness": before, **read_collapse(benign, labels).as_measures()}
