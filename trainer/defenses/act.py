"""Anti-collapse triplet, ACT: positive and negative are moved towards each other (method: Baselines)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseResult, benign_measures, embed_benign
from hardrank.trainer.metric.losses import distance, hardness, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


def collapse_pair(embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
    """The objective d(p̃, ñ) of positives and negatives (G,2,D) → (G,)."""
    return distance(*embeddings.unbind(1))


@dataclass(frozen=True, kw_only=True)
class AntiCollapseTriplet(Defense):
    """ACT[sampler]."""

    sampler: Sampler = Sampler.RANDOM

    @property
    def name(self) -> str:
        """`ACT[R]`."""
        return f"ACT[{self.sampler}]"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T(a, p̃, ñ) with the anchor benign."""
        benign = embed_benign(images, conditions)
        triplets = draw_triplets(self.sampler, benign, labels, generator=conditions.generator, margin=conditions.margin)
        if len(triplets) == 0:
            return None
        anchors, positives, negatives = triplets.gather(images)
        pair = conditions.perturb(torch.stack([positives, negatives], dim=1), collapse_pair)
        embedded = conditions.network(torch.cat([anchors, pair[:, 0], pair[:, 1]])).chunk(3)
        loss = triplet_loss(*embedded, margin=conditions.margin)
        measures = {
            **benign_measures(benign, labels, triplets),
            "hardness_reached": hardness(*embedded).detach().mean().item(),
        }
        return DefenseResult(loss, loss.detach(), measures)
