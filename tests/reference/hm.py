"""Hardness manipulation written plainly, as one reads it in the paper: the oracle and the yardstick of the fast step.

Per-anchor Python loops draw the triplets, every triplet goes through every step, the network is the training network
in evaluation mode with its parameter gradients, in float32 (or the dtype of its weights) and the default layout.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardrank.trainer.metric.losses import distance, hardness, triplet_loss


@dataclass(frozen=True)
class PlainStep:
    """What a plain step computed."""

    images: Tensor
    """(3T,3,H,W): perturbed anchors, positives, negatives."""
    loss: Tensor
    """Triplet loss + λ·ICS, scalar, with gradient."""


def softhard_triplets(
    embeddings: Tensor, labels: Tensor, draw: random.Random
) -> tuple[list[int], list[int], list[int]]:
    """The sampler S, an anchor at a time."""
    anchors, positives, negatives = [], [], []
    rows = range(len(labels))
    for a in range(0, len(labels), 2):
        d = [float(distance(embeddings[a], embeddings[i])) for i in rows]
        same = [i for i in rows if labels[i] == labels[a] and i != a]
        other = [i for i in rows if labels[i] != labels[a]]
        farthest, nearest = max(d[i] for i in same), min(d[i] for i in other)
        anchors.append(a)
        positives.append(draw.choice([i for i in same if d[i] > nearest] or same))
        negatives.append(draw.choice([i for i in other if d[i] < farthest] or other))
    return anchors, positives, negatives


def perturb(
    network: nn.Module, images: Tensor, destination: Tensor, *, epsilon: float, alpha: float, steps: int
) -> Tensor:
    """Move all triplets `images` (3T,3,H,W) towards `destination` (T,), through all steps."""
    network.eval()
    perturbed = images.clone()
    for _ in range(steps):
        perturbed = perturbed.detach().requires_grad_(True)
        a, p, n = network(perturbed).chunk(3)
        loss = (destination - hardness(a, p, n)).clamp_min(0).square().sum()
        network.zero_grad()
        loss.backward()
        assert perturbed.grad is not None
        moved = perturbed.detach() - alpha * perturbed.grad.sign()
        moved = torch.minimum(torch.maximum(moved, images - epsilon), images + epsilon)
        perturbed = moved.clamp(0, 1)
    return perturbed.detach()


def hm_step(
    network: nn.Module,
    images: Tensor,
    triplets: tuple[Tensor, Tensor, Tensor],
    destination: Tensor,
    *,
    epsilon: float,
    alpha: float,
    steps: int,
    margin: float,
    ics: float,
    ics_margin: float = 0.0,
) -> PlainStep:
    """Perturb the triplets of a batch (2T,3,H,W) and give the loss of the update, with batch norm frozen."""
    adversarial = perturb(
        network,
        torch.cat([images[rows] for rows in triplets]),
        destination,
        epsilon=epsilon,
        alpha=alpha,
        steps=steps,
    )
    a, p, n = network(adversarial).chunk(3)
    loss = triplet_loss(a, p, n, margin=margin)
    if ics:
        benign_a, benign_p = network(images[triplets[0]]), network(images[triplets[1]])
        loss = loss + ics * triplet_loss(benign_a, a, benign_p, margin=ics_margin)
    return PlainStep(adversarial, loss)
