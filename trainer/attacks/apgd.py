"""APGD: PGD with momentum, whose step is halved where progress stops; the best point found is kept.

After Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks*, ICML 2020, section 3.
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.pgd import Ball, Objective, PGDOptions, Step, ball_around, gradient_pass, put_rows

_FRESH: Final = 0.75
"""The share of the new step; the rest carries on the previous one."""
_SUCCESS: Final = 0.75
"""A step is halved when a smaller share of the steps since the last checkpoint lowered the loss."""


def checkpoints(steps: int) -> frozenset[int]:
    """Return the steps at which the step length may be halved: at 22 %, then ever closer, down to 6 %."""
    found, previous, place = set(), 0.0, 0.22
    while place < 1:
        found.add(math.ceil(round(place * steps, 6)))
        previous, place = place, place + max(place - previous - 0.03, 0.06)
    return frozenset(found)


def apgd_steps(
    embed: Embed,
    images: Tensor,
    objective: Objective,
    options: PGDOptions,
    *,
    moving: Tensor | None = None,
    start: Tensor | None = None,
    ball: Ball | None = None,
) -> Iterator[Step]:
    """Minimize an objective like `pgd_steps`, with the same arguments; α is ignored, the first step is 2ε.

    The images and embeddings of each `Step` are those with the lowest loss so far; `losses` are those of the last
    iterate. One extra forward pass evaluates the last iterate.
    """
    groups, members = images.shape[:2]
    whole = ball or ball_around(images.flatten(0, 1), epsilon=options.epsilon, norm=options.norm)
    place = torch.arange(members, device=images.device)
    x = (images if start is None else start).clone()
    before, best, slope = x.clone(), x.clone(), torch.zeros_like(x)
    length = images.new_full((groups, 1, 1, 1, 1), 2 * options.epsilon)
    lowest, last = (images.new_full((groups,), torch.inf, dtype=torch.float64) for _ in range(2))
    noted = lowest.clone()
    halved = torch.zeros(groups, dtype=torch.bool, device=images.device)
    fallen = torch.zeros(groups, dtype=torch.long, device=images.device)
    active = torch.arange(groups, device=images.device)
    if moving is not None:
        active = active[moving]
    embeddings: Tensor | None = None
    turning, since = checkpoints(options.steps), 0
    for step in range(options.steps):
        if active.numel() == 0:
            return
        state = gradient_pass(embed, x[active].flatten(0, 1), objective, active, step, eot=options.eot)
        losses = state.losses.double()
        direction = torch.zeros_like(x[active])
        if state.gradient is not None:
            direction = whole.direction(state.gradient).reshape(direction.shape)
        if step == 0:
            noted[active] = losses
        better = losses < lowest[active]
        won = active[better]
        lowest[won], best[won], slope[won] = losses[better], x[won], direction[better]
        embeddings = put_rows(embeddings, won, state.embeddings[better], groups)
        fallen[active] += losses < last[active]
        last[active] = losses
        if step in turning:
            stuck = fallen[active] < _SUCCESS * since
            stuck |= halved[active].logical_not() & (lowest[active] >= noted[active])
            back = active[stuck]
            x[back], before[back], direction[stuck] = best[back], best[back], slope[back]
            length[back] /= 2
            halved[active], noted[active] = stuck, lowest[active]
            fallen.zero_()
            since = 0
        since += 1
        move = active[state.alive]
        here, within = x[move], whole.take((move[:, None] * members + place).flatten())
        ahead = _within(within, here - length[move] * direction[state.alive])
        if step > 0:
            ahead = here + _FRESH * (ahead - here) + (1 - _FRESH) * (here - before[move])
            ahead = _within(within, ahead)
        before[move], x[move] = here, ahead
        seen = images.new_full((groups,), torch.nan, dtype=state.losses.dtype)
        seen[active] = state.losses
        blind = torch.zeros(groups, dtype=torch.bool, device=images.device)
        if step == 0:
            blind[active] = state.alive & direction.flatten(1).any(1).logical_not()
        active = move
        if step + 1 == options.steps and active.numel():
            embeddings = _judge_last(embed, objective, x, active, lowest, best, embeddings, options.steps)
        yield Step(step + 1, best.clone(), seen, int(active.numel()), embeddings, blind)


@torch.no_grad()
def _judge_last(
    embed: Embed,
    objective: Objective,
    x: Tensor,
    active: Tensor,
    lowest: Tensor,
    best: Tensor,
    embeddings: Tensor,
    step: int,
) -> Tensor:
    """Put the last iterates of `active` groups into `best` where they have the lowest loss; return its embeddings."""
    members = x.shape[1]
    reached = embed(x[active].flatten(0, 1)).view(active.numel(), members, -1)
    better = objective(reached, active, step).double() < lowest[active]
    best[active[better]] = x[active[better]]
    return put_rows(embeddings, active[better], reached[better], len(x))


def _within(ball: Ball, x: Tensor) -> Tensor:
    """Project groups of images (G,K,3,H,W) to their budgets."""
    return ball.project(x.flatten(0, 1)).reshape(x.shape)
