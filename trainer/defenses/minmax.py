"""Min-max training: the triplet loss at its worst within the budget (method: Baselines). It tends to collapse."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseResult, benign_measures, embed_benign
from hardrank.trainer.metric.losses import hardness, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


def ease(embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
    """The objective −H of anchors, positives and negatives (G,3,D) → (G,).

    L_T = max(0, H + γ) grows with H, so maximizing H maximizes L_T. The gradient of L_T itself is zero for easy
    triplets, H < −γ, which would not move.
    """
    return -hardness(*embeddings.unbind(1))


@dataclass(frozen=True, kw_only=True)
class MinMax(Defense):
    """minmax[sampler]: min over the weights of max over the perturbations of L_T. The same as HM[sampler,2]."""

    sampler: Sampler = Sampler.SOFTHARD

    @property
    def name(self) -> str:
        """`minmax[S]`."""
        return f"minmax[{self.sampler}]"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T(ã, p̃, ñ), with all three images perturbed to be as hard as possible."""
        benign = embed_benign(images, conditions)
        triplets = draw_triplets(self.sampler, benign, labels, generator=conditions.generator, margin=conditions.margin)
        if len(triplets) == 0:
            return None
        hardest = conditions.perturb(torch.stack(triplets.gather(images), dim=1), ease)
        embedded = conditions.network(hardest.transpose(0, 1).flatten(0, 1)).chunk(3)
        loss = triplet_loss(*embedded, margin=conditions.margin)
        reached = hardness(*embedded).detach().mean().item()
        measures = {**benign_measures(benign, labels, triplets), "hardness_reached": reached}
        return DefenseResult(loss, loss.detach(), measures)
