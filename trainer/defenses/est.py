"""EST: training on images that are moved as far as possible from their own embedding (method: Baselines)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseResult, benign_measures, embed_benign
from hardrank.trainer.metric.losses import distance, hardness, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


@dataclass(frozen=True)
class AwayFromItself:
    """The objective −d(x̃, x).

    At x̃ = x the distance has no gradient; the 1e-6 that `distance` adds to each coordinate provides one.
    """

    benign: Tensor
    """φ(x) (N,D)."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) of images alone → (G,)."""
        return -distance(embeddings[:, 0], self.benign[rows])


@dataclass(frozen=True, kw_only=True)
class EmbeddingShifted(Defense):
    """EST[sampler]: embedding-shifted triplets."""

    sampler: Sampler = Sampler.RANDOM
    as_released: bool = False
    """Whether to follow the released code of the paper: triplets are drawn on the perturbed embeddings, and batch norm
    is not frozen."""

    @property
    def name(self) -> str:
        """`EST[R]`, or `EST-released[R]`."""
        return f"EST{'-released' if self.as_released else ''}[{self.sampler}]"

    @property
    def trains_batch_norm(self) -> bool:
        """Whether the means and variances of batch norm are updated unless the configuration says otherwise."""
        return self.as_released

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T(ã, p̃, ñ), each image of the batch perturbed individually, once for all triplets that it is in.

        The triplets are drawn on the benign embeddings, or on the perturbed ones with `as_released`.
        """
        if bool((labels == labels[0]).all()):
            return None
        benign = embed_benign(images, conditions)
        shifted = conditions.perturb(images[:, None], AwayFromItself(benign))[:, 0]
        embedded = conditions.network(shifted)
        drawn_on = embedded if self.as_released else benign
        triplets = draw_triplets(
            self.sampler, drawn_on, labels, generator=conditions.generator, margin=conditions.margin
        )
        loss = triplet_loss(*triplets.gather(embedded), margin=conditions.margin)
        with torch.no_grad():
            reached = hardness(*triplets.gather(embedded)).mean().item()
            shift = distance(embedded, benign.to(embedded)).mean().item()
        measures = {**benign_measures(benign, labels, triplets), "hardness_reached": reached, "shift": shift}
        return DefenseResult(loss, loss.detach(), measures)
