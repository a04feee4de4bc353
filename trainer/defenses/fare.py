"""FARE: embeddings of perturbed images stay where the network had the benign images before (unsupervised).

Schlarmann, Singh, Croce & Hein, "Robust CLIP", ICML 2024, arXiv 2402.12336, eq. 3 and 4. A pretrained network keeps the
structure of its embeddings, so that its retrieval survives an adversarial start.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardrank.trainer.defenses.defense import Conditions, Defense, DefenseError, DefenseResult, embed_benign
from hardrank.trainer.defenses.destinations import written
from hardrank.trainer.defenses.est import AwayFromItself
from hardrank.trainer.metric.collapse import read_collapse


@dataclass(frozen=True, kw_only=True)
class AnchoredFineTuning(Defense):
    """FARE (lambda=λ)."""

    needs_reference: ClassVar[bool] = True
    """φ₀."""
    benign_weight: float = 0.0
    """λ of the same distance for benign images; 0 in the paper."""

    @property
    def name(self) -> str:
        """`FARE`, with λ if it is not 0."""
        return f"FARE(lambda={written(self.benign_weight)})" if self.benign_weight else "FARE"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """Mean of ‖φ(x̃) − φ₀(x)‖² + λ·‖φ(x) − φ₀(x)‖², where φ₀ is φ at the beginning of the stage.

        PGD moves φ(x̃) away from φ₀(x). Labels are not used.
        """
        if conditions.reference is None:
            raise DefenseError(f"{self.name} needs the network at the beginning of the stage as `reference`")
        with torch.no_grad():
            target = conditions.reference(images)
        benign = embed_benign(images, conditions)
        perturbed = conditions.perturb(images[:, None], AwayFromItself(target))[:, 0]
        inputs = torch.cat([perturbed, images]) if self.benign_weight else perturbed
        embedded = conditions.network(inputs).split(len(images))
        shifts = [(one - target).square().sum(dim=1).mean() for one in embedded]
        loss = shifts[0] + self.benign_weight * shifts[1] if self.benign_weight else shifts[0]
        measures = {
            "shift": shifts[0].detach().item(),
            "benign_shift": (benign - target).square().sum(dim=1).mean().item(),
            **read_collapse(benign, labels).as_measures(),
        }
        return DefenseResult(loss, loss.detach(), measures)
