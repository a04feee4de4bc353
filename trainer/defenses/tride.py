"""TRIDE: perturbs the candidates and the anchor of triplets alternately, guided by collapseness.

After CA-TRIDE (Tian et al., ICML 2024, arXiv 2312.07364; method: After this paper). As in that paper:

- iterations alternate: an even one perturbs the candidates p and n together, an odd one the anchor alone;
- distances of the batch enter the objectives as means with the weights exp(λ(d − max d)), D(·) here, and the gradient
  goes through the weights; collapseness is D(a,p) − D(a,n), and the adversary of the candidates stops at 0, where
  plain hardness would go on to a collapse;
- the anchor's adversary pulls it away from its origin and to the nearer half of the negatives, and gives way where
  D(ã,p) exceeds D(ã,n);
- the step size α grows linearly over training, from 0; the budget ε is constant.

Simplified here:

- the strength grows with each iteration, not each epoch;
- the triplets are those of the samplers of this project and the update's loss is L_T with a fixed margin, whichever
  turn it is; the number of steps is the option η of the training, 8 where theirs is 16;
- a factor exp(−max(0, D(a,n) − D(a,p))) of the anchor's second term is left out: where it is not 1 that term stands
  alone, and the sign of its gradient, which is all that a step in L∞ uses, is the same without it;
- perturbation ends where the gradient is exactly zero, not where the objective is below 1e-5.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseResult, benign_measures, embed_benign
from hardrank.trainer.defenses.destinations import written
from hardrank.trainer.metric.losses import distance, hardness, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, Triplets, draw_triplets


def weighted_mean(distances: Tensor, temperature: float) -> Tensor:
    """D: the mean of `distances` (…,T) over T with weights ∝ exp(λ(d − max d)); λ = 0 is the plain mean → (…)."""
    return (torch.softmax(temperature * distances, dim=-1) * distances).sum(-1)


def collapseness(to_positive: Tensor, to_negative: Tensor, temperature: float) -> Tensor:
    """D(a,p) − D(a,n) of distances (…,T) → (…): below 0 while the classes are apart."""
    return weighted_mean(to_positive, temperature) - weighted_mean(to_negative, temperature)


@dataclass(frozen=True)
class CandidatesTogether:
    """The objective max(0, D(a,ñ) − D(a,p̃)): positives away, negatives here, until collapseness is 0."""

    anchors: Tensor
    """φ(a) (T,D), benign."""
    temperature: float
    """λ."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,2T,D), the positives and then the negatives of a batch → (G,)."""
        positives, negatives = embeddings.chunk(2, dim=1)
        to_positive, to_negative = distance(self.anchors, positives), distance(self.anchors, negatives)
        return (-collapseness(to_positive, to_negative, self.temperature)).clamp_min(0)


@dataclass(frozen=True)
class AnchorAway:
    """The objective max(0, D(ã,p) − D(ã,n)) + max(0, mean of the nearer half of d(ã,n) − mean d(ã,a))."""

    anchors: Tensor
    """φ(a) (T,D), benign; so are the others."""
    positives: Tensor
    negatives: Tensor
    temperature: float
    """λ."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,T,D) of the anchors of a batch → (G,)."""
        to_positive, to_negative = distance(embeddings, self.positives), distance(embeddings, self.negatives)
        near = to_negative.topk(max(1, to_negative.shape[1] // 2), dim=1, largest=False).values
        shift = distance(embeddings, self.anchors)
        return collapseness(to_positive, to_negative, self.temperature).clamp_min(0) + (
            near.mean(1) - shift.mean(1)
        ).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class TripletDecoupling(Defense):
    """TRIDE[sampler] (lambda=λ)."""

    sampler: Sampler = Sampler.SOFTHARD
    temperature: float = 10.0
    """λ of the weights; in the paper 10 for CUB, 9.5 for Cars and 2 for SOP."""

    @property
    def name(self) -> str:
        """`TRIDE[S]`, with λ if it is not 10."""
        option = "" if self.temperature == 10 else f"(lambda={written(self.temperature)})"
        return f"TRIDE[{self.sampler}]{option}"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T(a, p̃, ñ) in even iterations, L_T(ã, p, n) in odd ones."""
        benign = embed_benign(images, conditions)
        triplets = draw_triplets(self.sampler, benign, labels, generator=conditions.generator, margin=conditions.margin)
        if len(triplets) == 0:
            return None
        embedded = conditions.network(self.perturb(images, benign, triplets, conditions)).chunk(3)
        loss = triplet_loss(*embedded, margin=conditions.margin)
        anchor, positive, negative = triplets.gather(benign)
        apart = collapseness(distance(anchor, positive), distance(anchor, negative), self.temperature)
        measures = {
            **benign_measures(benign, labels, triplets),
            "hardness_reached": hardness(*embedded).detach().mean().item(),
            "collapseness": apart.item(),
        }
        return DefenseResult(loss, loss.detach(), measures)

    def perturb(self, images: Tensor, benign: Tensor, triplets: Triplets, conditions: Conditions) -> Tensor:
        """Return the anchors, positives and negatives (3T,3,H,W), with the candidates or the anchors perturbed.

        All perturbed images are one group of the PGD engine, since the weighted means depend on the whole batch.
        """
        attack = replace(conditions.attack, alpha=conditions.attack.alpha * conditions.progress)
        conditions = replace(conditions, attack=attack)
        anchors, positives, negatives = triplets.gather(images)
        embedded = triplets.gather(benign)
        if conditions.iteration % 2:
            away = AnchorAway(*embedded, self.temperature)
            return torch.cat([conditions.perturb(anchors[None], away)[0], positives, negatives])
        together = CandidatesTogether(embedded[0], self.temperature)
        candidates = torch.cat([positives, negatives])[None]
        return torch.cat([anchors, conditions.perturb(candidates, together)[0]])
