"""MARGIN: queries whose first answer is to be of another class, as by the attack of that name (attacks: MARGIN)."""

from dataclasses import dataclass

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
from hardrank.trainer.defenses.destinations import written
from hardrank.trainer.metric.distances import pairwise_distances
from hardrank.trainer.metric.losses import distance, triplet_loss
from hardrank.trainer.metric.samplers import Triplets


@dataclass(frozen=True)
class FirstAnswer:
    """The objective max(0, min d(q̃,u) − min d(q̃,p) + m) over items u of other classes and p of the query's class."""

    items: Tensor
    """(B,D) benign embeddings of the batch."""
    same: Tensor
    """(B,B) bool: items of the query's class, the query itself left out."""
    other: Tensor
    """(B,B) bool: items of other classes."""
    margin: float
    """m."""

    @torch.no_grad()
    def nearest(self, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest items of the class and of other classes, each (G,), for `points` (G,D), queries `rows`."""
        d = pairwise_distances(points, self.items)
        positive, negative = (d.masked_fill(~mask[rows], torch.inf).argmin(1) for mask in (self.same, self.other))
        return positive, negative

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) of queries alone → (G,)."""
        points = embeddings[:, 0]
        positive, negative = self.nearest(points, rows)
        return (distance(points, self.items[negative]) - distance(points, self.items[positive]) + self.margin).relu()


@dataclass(frozen=True, kw_only=True)
class MarginDefense(Defense):
    """MARGIN(margin=m, lambda=λ)."""

    attack_margin: float = 0.2
    """m: a query is perturbed until the item of another class is nearer by this much; 2 for all steps."""
    benign_weight: float = 0.0
    """λ of the same loss for benign queries."""

    @property
    def name(self) -> str:
        """`MARGIN`, with m if it is not 0.2 and λ if it is not 0."""
        options = {"margin": (self.attack_margin, 0.2), "lambda": (self.benign_weight, 0.0)}
        told = ", ".join(f"{name}={written(value)}" for name, (value, usual) in options.items() if value != usual)
        return f"MARGIN({told})" if told else "MARGIN"

    def __call__(self, images: Tensor, labels: Tensor, conditions: Conditions) -> DefenseResult | None:
        """L_T(q̃, p, u), with each image of the batch as a query and the others, benign, as the gallery.

        p and u are the items of the query's class and of other classes that are nearest to the perturbed query. As the
        positive is the nearest one, other images of the class may stay apart.
        """
        if bool((labels == labels[0]).all()):
            return None
        benign = embed_benign(images, conditions)
        rows = torch.arange(len(labels), device=labels.device)
        same = labels[:, None] == labels[None, :]
        answers = FirstAnswer(benign, same & (rows[:, None] != rows[None, :]), ~same, self.attack_margin)
        queries = conditions.perturb(images[:, None], answers)[:, 0]
        perturbed, items = embed_perturbed(images, rows, queries, rows, conditions).chunk(2)

        def loss_of(points: Tensor) -> tuple[Tensor, Triplets]:
            triplets = Triplets(rows, *answers.nearest(points, rows))
            loss = triplet_loss(points, items[triplets.positive], items[triplets.negative], margin=conditions.margin)
            return loss, triplets

        loss, triplets = loss_of(perturbed)
        total = loss + self.benign_weight * loss_of(items)[0] if self.benign_weight else loss
        with torch.no_grad():
            reached = distance(perturbed, items[triplets.positive]) - distance(perturbed, items[triplets.negative])
        measures = {
            **benign_measures(benign, labels, triplets),
            "hardness_reached": reached.mean().item(),
            "kept": (reached < 0).float().mean().item(),
        }
        return DefenseResult(total, loss.detach(), measures)
