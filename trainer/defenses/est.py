"""EST: training on images that are moved as far as possible from their own embedding (method: Baselines)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, DefenseResult, benign_measures, embed_benign
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
class EmbeddingShifted:
    """EST[sampler]: embedding-shifted triplets."""

    sampler: Sampler = Sampler.RANDOM

    @property
    def name(self) -> str:
        """`EST[R]`."""
        return f"EST[{self.sampler}]"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T(ã, p̃, ñ), each image of the batch perturbed individually, once for all triplets that it is in.

        The triplets are drawn on the benign embeddings.
        """
        benign = embed_benign(images, conditions)
        triplets = draw_triplets(self.sampler, benign, labels, generator=conditions.generator, margin=conditions.margin)
        if len(triplets) == 0:
            return None
        shifted = conditions.perturb(images[:, None], AwayFromItself(benign))[:, 0]
        embedded = conditions.network(shifted)
        loss = triplet_loss(*triplets.gather(embedded), margin=conditions.margin)
        with torch.no_grad():
            reached = hardness(*triplets.gather(embedded)).mean().item()
            shift = distance(embedded, benign.to(embedded)).mean().item()
        measures = {**benign_measures(benign, labels, triplets), "hardness_reached": reached, "shift": shift}
        return DefenseResult(loss, loss.detach(), measures)
