"""The one PGD engine: attacks propose an objective, the engine moves, projects, judges and drops what is finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from models.embedder import Embed
from models.errors import HardrankError


class AttackError(HardrankError):
    """Options or inputs with which an attack cannot be run."""


class Norm(StrEnum):
    """The norm that bounds a perturbation."""

    LINF = "linf"
    L2 = "l2"


@dataclass(frozen=True, kw_only=True)
class PGDOptions:
    """How far, how fast and how long the engine moves."""

    epsilon: float = 8 / 255
    """ε, the budget: the largest norm of the perturbation, in units of pixels in [0,1]."""
    alpha: float = 3 / 255
    """α, the length of a step, in the same unit."""
    steps: int = 32
    """η, the number of steps."""
    norm: Norm = Norm.LINF
    """The norm of the budget."""

    def __post_init__(self) -> None:
        if not self.epsilon >= 0 or not self.alpha >= 0 or self.steps < 0:
            raise AttackError(
                f"ε, α and steps must not be negative: ε = {self.epsilon}, α = {self.alpha}, steps = {self.steps}"
            )


class Objective(Protocol):
    """What an attack minimises."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Give each group's loss (G,), differentiable in `embeddings` (G,K,D).

        `rows` (G,) says which groups of the call these are, for targets of their own; `step` counts from 0.
        A group's loss may depend on its own embeddings alone, and once its gradient is zero it stays zero
        for embeddings that do not move: the engine then leaves the group where it is.
        """


@dataclass(frozen=True)
class Step:
    """The state after a step of the engine."""

    number: int
    """Steps done, from 1."""
    images: Tensor
    """(G,K,3,H,W): the images as perturbed so far."""
    losses: Tensor
    """(G,): each group's loss, seen by this step's forward pass, that is, before the step; NaN where it was left out."""
    moving: int
    """How many groups this step moved."""


def pgd_steps(
    embed: Embed, images: Tensor, objective: Objective, options: PGDOptions, *, moving: Tensor | None = None
) -> Iterator[Step]:
    """Minimise `objective` over perturbations of `images` (G,K,3,H,W) in [0,1], a step at a time.

    The K images of a group share a loss and stop together: a group whose loss has no gradient (its hinge is
    satisfied) leaves the batch for the remaining steps, which changes nothing else since the network is in
    evaluation mode. `moving` (G,) bool leaves out groups known to be finished. Stop by not asking for more.
    """
    groups, members = images.shape[:2]
    origin = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    current = origin.clone(memory_format=torch.preserve_format)
    active = torch.arange(groups, device=images.device)
    if moving is not None:
        active = active[moving]
    for step in range(options.steps):
        if active.numel() == 0:
            return
        whole = active.numel() == groups
        flat = (active[:, None] * members + torch.arange(members, device=images.device)).flatten()
        x = (current if whole else current[flat]).detach().requires_grad_(True)
        embeddings = embed(x)
        leaf = embeddings.detach().requires_grad_(True)
        loss = objective(leaf.view(active.numel(), members, -1), active, step)
        (pull,) = torch.autograd.grad(loss.sum(), leaf)
        alive = pull.view(active.numel(), -1).ne(0).any(dim=1)
        losses = loss.new_full((groups,), torch.nan)
        losses[active] = loss.detach()
        if bool(alive.any()):
            (gradient,) = torch.autograd.grad(embeddings, x, pull)
            moved = _step(x.detach(), gradient, origin if whole else origin[flat], options)
            if whole:
                current = moved
            else:
                current[flat] = moved
        active = active[alive]
        yield Step(step + 1, current.unflatten(0, (groups, members)), losses, int(active.numel()))


def pgd(
    embed: Embed, images: Tensor, objective: Objective, options: PGDOptions, *, moving: Tensor | None = None
) -> Tensor:
    """Run all steps of `pgd_steps`; gives the perturbed images (G,K,3,H,W)."""
    perturbed = images
    for state in pgd_steps(embed, images, objective, options, moving=moving):
        perturbed = state.images
    return perturbed


def _step(x: Tensor, gradient: Tensor, origin: Tensor, options: PGDOptions) -> Tensor:
    if options.norm is Norm.LINF:
        moved = torch.add(x, gradient.sign_(), alpha=-options.alpha)
    else:
        moved = x - options.alpha * gradient / _l2(gradient).clamp_min(1e-12)
    return project(moved, origin, epsilon=options.epsilon, norm=options.norm)


def project(images: Tensor, origin: Tensor, *, epsilon: float, norm: Norm) -> Tensor:
    """Bring `images` (N,3,H,W) back within ε of `origin`, then into [0,1] (which cannot leave the ball again)."""
    if norm is Norm.LINF:
        bounded = torch.minimum(torch.maximum(images, origin - epsilon), origin + epsilon)
    else:
        r = images - origin
        bounded = origin + r * (epsilon / _l2(r).clamp_min(1e-12)).clamp_max(1.0)
    return bounded.clamp_(0.0, 1.0)


def _l2(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
