"""The PGD engine: an attack proposes an objective; the engine steps, projects, and drops finished images."""

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
    """The budget, the step size and the number of steps of an engine."""

    epsilon: float = option(
        8 / 255,
        minimum=0,
        unit="of pixels in [0,1]",
        help="ε, the budget: the largest norm of the perturbation",
    )
    alpha: float = option(3 / 255, minimum=0, unit="of pixels in [0,1]", help="α, the length of a step")
    steps: int = option(32, minimum=0, unit="steps", help="η, the number of steps")
    norm: Norm = option(Norm.LINF, help="the norm of the budget")  # noqa: RUF009
    eot: int = option(
        1,
        minimum=1,
        unit="passes",
        help="passes whose gradients are averaged in each step (expectation over transformation), for networks that "
        "embed the same image differently each time",
    )


class Objective(Protocol):
    """The loss that an attack minimizes."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Return each group's loss (G,), differentiable in `embeddings` (G,K,D).

        `rows` (G,) tells which groups of the batch these are; `step` counts from 0. A group's loss may depend only
        on its own embeddings, and once its gradient is zero it must stay zero while the embeddings stay: the engine
        then leaves the group alone.
        """


@dataclass(frozen=True)
class Step:
    """The state after a step of the engine."""

    number: int
    """Steps done, from 1."""
    images: Tensor
    """(G,K,3,H,W): the perturbed images so far."""
    losses: Tensor
    """(G,): each group's loss before the step; NaN for groups that are finished."""
    moving: int
    """How many groups this step moved."""
    embeddings: Tensor
    """(G,K,D): each group's embeddings in its last forward pass, before the step."""
    blind: Tensor
    """(G,) bool, set in the first step: the loss has a gradient at the embedding, but no pixel has one."""


def pgd_steps(
    embed: Embed,
    images: Tensor,
    objective: Objective,
    options: PGDOptions,
    *,
    moving: Tensor | None = None,
    start: Tensor | None = None,
    ball: "Ball | None" = None,
) -> Iterator[Step]:
    """Minimize an objective over perturbations of images, one step at a time.

    The K images of a group share a loss and stop together. A group whose loss has no gradient leaves the batch for the
    remaining steps; since the network is in evaluation mode, this changes nothing else. To stop early, stop iterating.

    Args:
        embed: the network, (n,3,H,W) → (n,D).
        images: (G,K,3,H,W) in [0,1].
        objective: the loss of each group.
        options: budget ε, step size α, number of steps η, and norm.
        moving: (G,) bool; groups that are False are finished from the start.
        start: (G,K,3,H,W) within the budget, where to begin; by default at `images`.
        ball: the budgets of the G·K images; by default ε in the norm.

    Yields:
        The state after each step (Madry et al., ICLR 2018): x ← clip(x − α·sign ∇ loss), projected to the budget.
    """
    groups, members = images.shape[:2]
    layout = memory_format(images.dtype)
    origin = images.flatten(0, 1).contiguous(memory_format=layout)
    begin = origin if start is None else start.flatten(0, 1)
    current = begin.clone(memory_format=layout)
    ball = ball or ball_around(origin, epsilon=options.epsilon, norm=options.norm)
    active = torch.arange(groups, device=images.device)
    inputs, kept = current, torch.ones_like(active, dtype=torch.bool) if moving is None else moving
    seen: Tensor | None = None
    for step in range(options.steps):
        if not bool(kept.all()):  # the images and budgets of the groups that are left
            active, among = active[kept], kept.repeat_interleave(members).nonzero()[:, 0]
            inputs, ball = inputs[among], ball.take(among)
        if active.numel() == 0:
            return
        whole = active.numel() == groups
        state = gradient_pass(embed, inputs, objective, active, step, eot=options.eot)
        losses = state.losses.new_full((groups,), torch.nan)
        losses[active] = state.losses
        seen = state.embeddings if whole else put_rows(seen, active, state.embeddings, groups)
        blind = torch.zeros(groups, dtype=torch.bool, device=images.device)
        if state.gradient is not None:
            if step == 0:
                felt = state.gradient.any(dim=(1, 2, 3)).view(-1, members).any(1)
                blind[active] = state.alive & felt.logical_not()
            direction = ball.direction(state.gradient)
            inputs = ball.project(torch.sub(inputs, direction, alpha=options.alpha))
            flat = (active[:, None] * members + torch.arange(members, device=images.device)).flatten()
            current = inputs if whole else current.index_copy(0, flat, inputs)
        kept = state.alive
        yield Step(
            step + 1,
            current.view(groups, members, *current.shape[1:]),
            losses,
            int(kept.sum()),
            seen,
            blind,
        )


def memory_format(dtype: torch.dtype) -> torch.memory_format:
    """Return the memory layout in which convolutions of `dtype` run fast: channels-last, except for float64."""
    return torch.contiguous_format if dtype is torch.float64 else torch.channels_last


@dataclass(frozen=True)
class GradientPass:
    """The results of one forward and input-gradient pass."""

    losses: Tensor
    """(G,)."""
    embeddings: Tensor
    """(G,K,D)."""
    alive: Tensor
    """(G,) bool: the loss has a gradient at the embedding."""
    gradient: Tensor | None
    """(G·K,3,H,W); None when no group is alive."""


def gradient_pass(
    embed: Embed, images: Tensor, objective: Objective, rows: Tensor, step: int, *, eot: int = 1
) -> GradientPass:
    """Embed `images` (G·K,3,H,W) and return the losses of groups `rows` (G,) and their gradient at the pixels.

    With `eot` > 1, losses and gradients are the means of as many passes (Athalye et al., ICML 2018); the embeddings
    are those of the last one.
    """
    found = _one_pass(embed, images, objective, rows, step)
    for count in range(2, eot + 1):
        found = _mean_of_passes(found, _one_pass(embed, images, objective, rows, step), count)
    return found


def _mean_of_passes(mean: GradientPass, last: GradientPass, count: int) -> GradientPass:
    """Add the last of `count` passes to the mean of those before."""
    gradients = [one for one in (mean.gradient, last.gradient) if one is not None]
    if len(gradients) == 2:
        gradients = [gradients[0] + (gradients[1] - gradients[0]) / count]
    return GradientPass(
        mean.losses + (last.losses - mean.losses) / count,
        last.embeddings,
        mean.alive | last.alive,
        gradients[0] if gradients else None,
    )


def _one_pass(embed: Embed, images: Tensor, objective: Objective, rows: Tensor, step: int) -> GradientPass:
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
    return GradientPass(losses.detach(), leaf.detach().view(groups, -1, leaf.shape[1]), alive, gradient)


def put_rows(whole: Tensor | None, rows: Tensor, values: Tensor, groups: int) -> Tensor:
    """Return a copy of `whole` (`groups`,…), by default all NaN, with `values` (R,…) at `rows` (R,)."""
    if whole is None:
        whole = values.new_full((groups, *values.shape[1:]), torch.nan)
    return whole.index_copy(0, rows, values)


def pgd(
    embed: Embed,
    images: Tensor,
    objective: Objective,
    options: PGDOptions,
    *,
    moving: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Run all steps of `pgd_steps` and return the perturbed images (G,K,3,H,W)."""
    perturbed = images if start is None else start
    for state in pgd_steps(embed, images, objective, options, moving=moving, start=start):
        perturbed = state.images
    return perturbed


class Ball(Protocol):
    """The budgets of a batch of images."""

    def take(self, rows: Tensor) -> "Ball":
        """Return the budgets of some of the images."""

    def project(self, x: Tensor) -> Tensor:
        """Project `x` (N,3,H,W), which may be overwritten, to the budgets and to [0,1]."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the ascent direction of length 1 for `gradient` (N,3,H,W), which may be overwritten."""


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
    """L2: the length of the perturbation; clipping to [0,1] afterwards cannot lengthen it."""

    origin: Tensor
    epsilon: float

    def take(self, rows: Tensor) -> "_Sphere":
        return _Sphere(self.origin[rows], self.epsilon)

    def project(self, x: Tensor) -> Tensor:
        r = x - self.origin
        return (self.origin + r * (self.epsilon / _lengths(r)).clamp_max(1.0)).clamp_(0.0, 1.0)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / _lengths(gradient)


_BALLS: Final[Mapping[Norm, Callable[[Tensor, float], Ball]]] = {
    Norm.LINF: _Box.around,
    Norm.L2: _Sphere,
}


def box(low: Tensor, high: Tensor) -> Ball:
    """Return budgets with an interval for each pixel, `low` to `high` (N,3,H,W), within [0,1]."""
    return _Box(low, high)


def ball_around(origin: Tensor, *, epsilon: float, norm: Norm) -> Ball:
    """Return the budgets ε around the images `origin` (N,3,H,W)."""
    return _BALLS[norm](origin, epsilon)


def project(images: Tensor, origin: Tensor, *, epsilon: float, norm: Norm) -> Tensor:
    """Project `images` (N,3,H,W) to within ε of `origin` and to [0,1]."""
    return ball_around(origin, epsilon=epsilon, norm=norm).project(images.clone())


def _lengths(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return length.clamp_min(1e-12)
