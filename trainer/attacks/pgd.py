"""The one PGD engine: attacks propose an objective, the engine moves, projects, drops what is finished."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.options import AttackError as AttackError
from hardrank.trainer.attacks.options import CheckedOptions, option


class Norm(StrEnum):
    """The norm that bounds a perturbation."""

    LINF = "linf"
    L2 = "l2"


@dataclass(frozen=True, kw_only=True)
class PGDOptions(CheckedOptions):
    """How far, how fast and how long an engine moves."""

    epsilon: float = option(
        8 / 255,
        minimum=0,
        unit="of pixels in [0,1]",
        help="ε, the budget: the largest norm of the perturbation",
    )
    alpha: float = option(3 / 255, minimum=0, unit="of pixels in [0,1]", help="α, the length of a step")
    steps: int = option(32, minimum=0, unit="steps", help="η, the number of steps")
    norm: Norm = option(Norm.LINF, help="the norm of the budget")  # noqa: RUF009


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
    """(G,): each group's loss in this step's forward pass, that is, before the step; NaN where left out."""
    moving: int
    """How many groups this step moved."""
    embeddings: Tensor
    """(G,K,D): the embeddings that each group's last forward pass gave, before the step."""
    blind: Tensor
    """(G,) bool, told by the first step: the loss pulls at the embedding, but no pixel has a gradient."""


def pgd_steps(
    embed: Embed,
    images: Tensor,
    objective: Objective,
    options: PGDOptions,
    *,
    moving: Tensor | None = None,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Minimise `objective` over perturbations of `images` (G,K,3,H,W) in [0,1], a step at a time.

    The K images of a group share a loss and stop together: a group whose loss has no gradient (its hinge is
    satisfied) leaves the batch for the remaining steps, which changes nothing else since the network is in
    evaluation mode. `moving` (G,) bool leaves out groups known to be finished. `start` (G,K,3,H,W), within
    the budget, is where to begin instead of at the images. Stop by not asking for more.
    """
    groups, members = images.shape[:2]
    layout = memory_format(images.dtype)
    origin = images.flatten(0, 1).contiguous(memory_format=layout)
    begin = origin if start is None else start.flatten(0, 1)
    current = begin.clone(memory_format=layout)
    ball = ball_around(origin, epsilon=options.epsilon, norm=options.norm)
    active = torch.arange(groups, device=images.device)
    if moving is not None:
        active = active[moving]
    seen: Tensor | None = None
    for step in range(options.steps):
        if active.numel() == 0:
            return
        whole = active.numel() == groups
        flat = (active[:, None] * members + torch.arange(members, device=images.device)).flatten()
        look = look_at(embed, current if whole else current[flat], objective, active, step)
        losses = look.losses.new_full((groups,), torch.nan)
        losses[active] = look.losses
        seen = look.embeddings if whole else put_rows(seen, active, look.embeddings, groups)
        blind = torch.zeros(groups, dtype=torch.bool, device=images.device)
        if look.gradient is not None:
            if step == 0:
                felt = look.gradient.any(dim=(1, 2, 3)).view(-1, members).any(1)
                blind[active] = look.alive & felt.logical_not()
            direction = ball.direction(look.gradient)
            moved = torch.sub(current if whole else current[flat], direction, alpha=options.alpha)
            moved = (ball if whole else ball.take(flat)).project(moved)
            current = moved if whole else current.index_copy(0, flat, moved)
        active = active[look.alive]
        yield Step(
            step + 1,
            current.view(groups, members, *current.shape[1:]),
            losses,
            int(active.numel()),
            seen,
            blind,
        )


def memory_format(dtype: torch.dtype) -> torch.memory_format:
    """Give the layout in which convolutions of `dtype` run fast: channels-last, but for float64."""
    return torch.contiguous_format if dtype is torch.float64 else torch.channels_last


@dataclass(frozen=True)
class Look:
    """What one forward and input-gradient pass shows."""

    losses: Tensor
    """(G,)."""
    embeddings: Tensor
    """(G,K,D)."""
    alive: Tensor
    """(G,) bool: the loss pulls at the embedding."""
    gradient: Tensor | None
    """(G·K,3,H,W); None when no group is alive."""


def look_at(embed: Embed, images: Tensor, objective: Objective, rows: Tensor, step: int) -> Look:
    """Embed `images` (G·K,3,H,W); give the losses of groups `rows` (G,) and their gradient in the pixels."""
    groups = rows.numel()
    x = images.detach().requires_grad_(True)
    embeddings = embed(x)
    leaf = embeddings.detach().requires_grad_(True)
    losses = objective(leaf.view(groups, -1, leaf.shape[1]), rows, step)
    (pull,) = torch.autograd.grad(losses.sum(), leaf)
    alive = pull.view(groups, -1).ne(0).any(dim=1)
    gradient = None
    if bool(alive.any()):
        (gradient,) = torch.autograd.grad(embeddings, x, pull)
    return Look(losses.detach(), leaf.detach().view(groups, -1, leaf.shape[1]), alive, gradient)


def put_rows(whole: Tensor | None, rows: Tensor, values: Tensor, groups: int) -> Tensor:
    """Put `values` (R,…) at `rows` (R,) of a copy of `whole` (`groups`,…), at first all NaN."""
    if whole is None:
        whole = values.new_full((groups, *values.shape[1:]), torch.nan)
    return whole.index_copy(0, rows, values)


def pgd(
    embed: Embed, images: Tensor, objective: Objective, options: PGDOptions, *, moving: Tensor | None = None
) -> Tensor:
    """Run all steps of `pgd_steps`; gives the perturbed images (G,K,3,H,W)."""
    perturbed = images
    for state in pgd_steps(embed, images, objective, options, moving=moving):
        perturbed = state.images
    return perturbed


class Ball(Protocol):
    """The budgets of a batch of images."""

    def take(self, rows: Tensor) -> "Ball":
        """Give the budgets of some of the images."""

    def project(self, x: Tensor) -> Tensor:
        """Bring `x` (N,3,H,W), which may be overwritten, into the budgets and into [0,1]."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Give the ascent of length 1 of `gradient` (N,3,H,W), which may be overwritten; 0 where it is."""


@dataclass(frozen=True)
class _Box:
    """L∞: an interval for each pixel, within [0,1]."""

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, origin: Tensor, epsilon: float) -> "_Box":
        return cls((origin - epsilon).clamp_min_(0), (origin + epsilon).clamp_max_(1))

    def take(self, rows: Tensor) -> "_Box":
        return _Box(self.low[rows], self.high[rows])

    def project(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high, out=x)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign_()


@dataclass(frozen=True)
class _Sphere:
    """L2: the length of the perturbation; cutting to [0,1] afterwards cannot lengthen it."""

    origin: Tensor
    epsilon: float

    @classmethod
    def around(cls, origin: Tensor, epsilon: float) -> "_Sphere":
        return cls(origin, epsilon)

    def take(self, rows: Tensor) -> "_Sphere":
        return _Sphere(self.origin[rows], self.epsilon)

    def project(self, x: Tensor) -> Tensor:
        r = x - self.origin
        return (self.origin + r * (self.epsilon / _lengths(r)).clamp_max(1.0)).clamp_(0.0, 1.0)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / _lengths(gradient)


_BALLS: Final[Mapping[Norm, Callable[[Tensor, float], Ball]]] = {
    Norm.LINF: _Box.around,
    Norm.L2: _Sphere.around,
}


def ball_around(origin: Tensor, *, epsilon: float, norm: Norm) -> Ball:
    """Give the budgets ε of the images `origin` (N,3,H,W)."""
    return _BALLS[norm](origin, epsilon)


def project(images: Tensor, origin: Tensor, *, epsilon: float, norm: Norm) -> Tensor:
    """Bring `images` (N,3,H,W) back within ε of `origin`, then into [0,1], which cannot leave the ball."""
    return ball_around(origin, epsilon=epsilon, norm=norm).project(images.clone())


def _lengths(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return length.clamp_min(1e-12)
