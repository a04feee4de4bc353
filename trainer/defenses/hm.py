"""Hardness manipulation HM[H_S, H_D], optionally with the intra-class structure loss ICS."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import (
    Conditions,
    Defense,
    DefenseResult,
    benign_measures,
    embed_benign,
    embed_perturbed,
)
from hardrank.trainer.defenses.destinations import Destination, DestinationInput, Gradual, written
from hardrank.trainer.metric.losses import hardness, ics_loss, triplet_loss
from hardrank.trainer.metric.samplers import Sampler, draw_triplets


@dataclass(frozen=True)
class TowardsHardness:
    """The objective Σ max(0, H_D − H̃_S)² over triplets (method: Hardness manipulation)."""

    destination: Tensor
    """H_D (T,)."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,3,D) of anchors, positives, negatives → (G,)."""
        return (self.destination[rows] - hardness(*embeddings.unbind(1))).clamp_min(0).square()


@dataclass(frozen=True, kw_only=True)
class HardnessManipulation(Defense):
    """HM[source, destination] & ICS."""

    source: Sampler = Sampler.SOFTHARD
    """H_S: the sampler of the triplets that are perturbed."""
    destination: Destination = field(default_factory=Gradual)
    """H_D."""
    ics: float = 0.0
    """λ of ICS; 0 leaves it out. The paper: 0.5 for CUB and Cars, 0.05 for SOP."""
    ics_margin: float = 0.0
    """The margin of ICS; 0 in the paper, except for one row of its tables."""

    @property
    def name(self) -> str:
        """`HM[S,g_LGA]&ICS`, with λ if it is not 0.5, the margin of ICS if it is not 0, u if it is not γ."""
        options = {"u": getattr(self.destination, "u", None)}
        if self.ics:
            options |= {"lambda": self.ics if self.ics != 0.5 else None, "gamma": self.ics_margin or None}
        told = ", ".join(f"{name}={written(value)}" for name, value in options.items() if value is not None)
        return f"HM[{self.source},{self.destination.name}]{'&ICS' if self.ics else ''}{f'({told})' if told else ''}"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T of the triplets moved to their destination, + λ·L_ICS."""
        benign = embed_benign(images, conditions)
        triplets = draw_triplets(self.source, benign, labels, generator=conditions.generator, margin=conditions.margin)
        if len(triplets) == 0:
            return None
        given = DestinationInput(
            embeddings=benign,
            labels=labels,
            previous_loss=conditions.previous_loss,
            margin=conditions.margin,
            generator=conditions.generator,
        )
        destination = self.destination(given)
        before = hardness(*triplets.gather(benign))
        perturbed = conditions.perturb(
            torch.stack(triplets.gather(images), dim=1), TowardsHardness(destination), moving=before < destination
        )
        # One forward pass: the perturbed anchors, positives and negatives, then the benign images for ICS.
        sources = torch.cat([triplets.anchor, triplets.positive, triplets.negative])
        benign_rows = sources[: 2 * len(triplets) if self.ics else 0]
        embedded = embed_perturbed(images, sources, perturbed.transpose(0, 1).flatten(0, 1), benign_rows, conditions)
        embedded = embedded.split(len(triplets))
        loss = triplet_loss(embedded[0], embedded[1], embedded[2], margin=conditions.margin)
        total = loss
        if self.ics:
            structure = ics_loss(
                anchor=embedded[3], adversarial_anchor=embedded[0], positive=embedded[4], margin=self.ics_margin
            )
            total = loss + self.ics * structure
        measures = {
            **benign_measures(benign, labels, triplets),
            "destination": destination.mean().item(),
            "hardness_reached": hardness(embedded[0], embedded[1], embedded[2]).detach().mean().item(),
        }
        return DefenseResult(total, loss.detach(), measures)
