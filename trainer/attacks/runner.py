"""Runs one attack on a batch of images, step by step, with restarts, progress reports and cancellation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Any, Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.apgd import apgd_steps
from hardrank.trainer.attacks.attack import Attack, Gallery, TriesTargets, Victims, draw_or_check
from hardrank.trainer.attacks.loss_trace import LossTrace
from hardrank.trainer.attacks.options import AttackError, option
from hardrank.trainer.attacks.pgd import Ball, Objective, PGDOptions, Step, pgd_steps
from hardrank.trainer.attacks.starts import random_starts
from hardrank.trainer.metric.distances import check_sphere


class AttackEngine(StrEnum):
    """The algorithm that minimizes the objective."""

    PGD = "pgd"
    """Plain PGD, as published."""
    APGD = "apgd"
    """Momentum, step halving, the best point kept."""


class StepFunction(Protocol):
    """The interface of the engines."""

    def __call__(
        self,
        embed: Embed,
        images: Tensor,
        objective: Objective,
        options: PGDOptions,
        *,
        moving: Tensor | None = None,
        start: Tensor | None = None,
        ball: Ball | None = None,
    ) -> Iterator[Step]:
        """See `pgd_steps`."""


ENGINES: Final[Mapping[AttackEngine, StepFunction]] = {
    AttackEngine.PGD: pgd_steps,
    AttackEngine.APGD: apgd_steps,
}


@dataclass(frozen=True, kw_only=True)
class AttackOptions(PGDOptions):
    """Options of the engine, the same for every attack."""

    engine: AttackEngine = option(AttackEngine.PGD, help="plain PGD as in the paper, or APGD with adaptive steps")  # noqa: RUF009
    random_start: bool = option(
        False, help="begin at a random point of the budget; without it the first run begins at the image"
    )
    restarts: int = option(
        1,
        minimum=1,
        unit="runs",
        help="number of runs, all but the first from a random point; each image keeps its worst",
    )


@dataclass(frozen=True)
class AttackProgress:
    """The state of a running attack after a step."""

    restart: int
    """From 0."""
    step: int
    """Steps done in this run, from 1."""
    losses: Tensor
    """(G,): each image's loss as last seen, before the step."""
    images: Tensor
    """(G,3,H,W): the images as perturbed so far."""
    embeddings: Tensor
    """(G,D): as last seen, before the step."""
    moving: int
    """How many images the step moved."""
    measure: Callable[[Tensor], Tensor]
    queries: Tensor | None = None
    """(G,): queries to the model so far for each image, in a black-box search; else None."""

    def figures(self) -> Tensor:
        """Measure the attack's figures (G,F) before this step."""
        return self.measure(self.embeddings)


@dataclass(frozen=True)
class AttackResult:
    """The outcome of an attack on a batch of images; a row for each image."""

    images: Tensor
    """(G,3,H,W): the perturbed images."""
    embeddings: Tensor
    """(G,D): their embeddings."""
    targets: Tensor
    """(G,T): the gallery rows that the attack used as targets."""
    before: Tensor
    """(G,F): the attack's figures on the benign embeddings."""
    after: Tensor
    """(G,F): the figures reached."""
    first_loss: Tensor
    """(G,): at the start."""
    late_loss: Tensor
    """(G,): mean over the third quarter of the steps; the last loss where the image was finished before the end."""
    end_loss: Tensor
    """(G,): mean over the last quarter of the steps; the last loss where the image was finished before the end."""
    blind: Tensor
    """(G,) bool: at the start the loss pulled, but no pixel had a gradient."""
    restart: Tensor
    """(G,): the restart, from 0, in which the model resisted least."""
    image_passes: Tensor
    """(G,) integers: forward and backward passes through the network for each image, over all steps and runs."""
    cancelled: bool
    """Whether `cancel` ended the attack early; the other fields hold what was reached by then."""

    @property
    def passes(self) -> int:
        """Forward and backward passes of all images together."""
        return int(self.image_passes.sum())

    def columns(self) -> dict[str, Tensor]:
        """Return what an evaluation keeps of each image (G,…), by name."""
        return {
            "after": self.after,
            "before": self.before,
            "targets": self.targets,
            "first loss": self.first_loss,
            "late loss": self.late_loss,
            "end loss": self.end_loss,
            "blind": self.blind,
            "restart": self.restart,
            "passes": self.image_passes,
        }


class Method(Protocol):
    """An alternative to `run_attack`, such as a black-box search."""

    def __call__(
        self,
        attack: Attack,
        embed: Embed,
        images: Tensor,
        victims: Victims,
        gallery: Gallery,
        options: AttackOptions,
        *,
        seed: int = 0,
        targets: Tensor | None = None,
        judge: Embed | None = None,
        on_step: Callable[[AttackProgress], None] | None = None,
        cancel: Callable[[], bool] = ...,
    ) -> AttackResult:
        """See `run_attack`."""

    def describe(self) -> dict[str, Any]:
        """Return its name and options as JSON values; equal descriptions mean equal results."""


@runtime_checkable
class HasNoise(Protocol):
    """A method with another budget than ε, and so with a random baseline of its own."""

    def noise(self, images: Tensor, options: PGDOptions, ids: Tensor, *, seed: int) -> Tensor:
        """Return `images` (G,3,H,W) with a random change of the same budget; see `random_noise`."""


def never_cancel() -> bool:
    """Return False: do not cancel."""
    return False


def run_attack(
    attack: Attack,
    embed: Embed,
    images: Tensor,
    victims: Victims,
    gallery: Gallery,
    options: AttackOptions,
    *,
    seed: int = 0,
    targets: Tensor | None = None,
    judge: Embed | None = None,
    on_step: Callable[[AttackProgress], None] | None = None,
    cancel: Callable[[], bool] = never_cancel,
    ball: Ball | None = None,
) -> AttackResult:
    """Attack a batch of images and measure how their rankings changed.

    Args:
        attack: what to attack, from `make_attack`.
        embed: the network, images (G,3,H,W) → embeddings (G,D) on the unit sphere; it gives the gradients.
        images: (G,3,H,W) in [0,1].
        victims: the same images as the gallery sees them, before the attack.
        gallery: the benign gallery.
        options: engine, budget and steps.
        seed: of targets and random starts.
        targets: (G,T) gallery rows; drawn from `seed` where not given.
        judge: embeds the final images, where that should be another network than `embed`, such as the float32 twin
            of a bf16 network.
        on_step: called after each step.
        cancel: called before each step; the attack ends when it returns True.
        ball: what may be changed in each image; by default all pixels, by ε in the norm.

    Returns:
        The perturbed images, their embeddings, and the attack's figures before and after.

    Raises:
        AttackError: for pixels outside [0,1], or targets that the gallery cannot provide.
        RetrievalError: for embeddings off the unit sphere or not finite.
    """
    check_images(images, victims)
    targets = draw_or_check(attack, targets, victims, gallery, seed=seed)
    if isinstance(attack, TriesTargets):
        objectives = attack.objectives(victims, gallery, targets)
    else:
        objectives = [attack.objective(victims, gallery, targets)]
    final = judge or embed

    def measure(embeddings: Tensor) -> Tensor:
        return attack.measure(embeddings, victims, gallery, targets)

    with torch.no_grad():
        before = measure(victims.embeddings)
    worst: AttackResult | None = None
    for restart, objective in product(range(options.restarts), objectives):
        left: Tensor | None = None
        if worst is not None and len(objectives) > 1:  # another target cannot gain on an image that has been won
            left = attack.figures[0].score(worst.after[:, 0]) > 0
            if not bool(left.any()):
                break
        start = None
        if restart > 0 or options.random_start:
            start = random_starts(images, options, victims.ids, seed=seed, restart=restart)
            start = start if ball is None else ball.project(start)
        trace = LossTrace(options.steps, passes=options.eot)
        current, stopped = images if start is None else start, False
        steps = ENGINES[options.engine](
            embed,
            images[:, None],
            objective,
            options,
            moving=left,
            start=None if start is None else start[:, None],
            ball=ball,
        )
        while not (stopped := cancel()) and (state := next(steps, None)) is not None:
            current = state.images[:, 0]
            trace.add(state)
            if on_step is not None:
                seen = AttackProgress(
                    restart, state.number, trace.last, current, state.embeddings[:, 0], state.moving, measure
                )
                on_step(seen if left is None or worst is None else _keep_finished(seen, worst, left))
        with torch.no_grad():
            embeddings = final(current)
            check_sphere(embeddings, what="the network's embeddings of attacked images")
            after = measure(embeddings)
        summary = trace.summary(victims, cancelled=stopped)
        run = AttackResult(
            images=current,
            embeddings=embeddings,
            targets=targets,
            before=before,
            after=after,
            restart=torch.full_like(victims.own, restart),
            first_loss=summary.first,
            late_loss=summary.late,
            end_loss=summary.end,
            blind=summary.blind if left is None else summary.blind | left.logical_not(),
            image_passes=summary.passes,
            cancelled=stopped,
        )
        worst = run if worst is None else keep_worse(worst, run, attack)
        if stopped:
            break
    assert worst is not None
    return worst


def _keep_finished(progress: AttackProgress, worst: AttackResult, left: Tensor) -> AttackProgress:
    """Report images that this run leaves out as an earlier run left them."""
    return replace(
        progress,
        losses=torch.where(left, progress.losses, worst.end_loss),
        images=torch.where(left.view(-1, 1, 1, 1), progress.images, worst.images),
        embeddings=torch.where(left[:, None], progress.embeddings, worst.embeddings),
    )


def check_images(images: Tensor, victims: Victims) -> None:
    """Raise `AttackError` unless `images` are floats (G,3,H,W) in [0,1], one for each victim."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise AttackError(f"images must be floats of shape (G,3,H,W), not {images.dtype} {tuple(images.shape)}")
    if len(images) != len(victims):
        raise AttackError(f"got {len(images)} images for {len(victims)} victims")
    wrong = ((images >= 0) & (images <= 1)).flatten(1).all(1).logical_not()  # also true for NaN
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        low, high = images[row].min().item(), images[row].max().item()
        raise AttackError(
            f"pixels must lie in [0,1]: image {row} of {len(images)} has values from {low:g} to {high:g}; "
            "divide bytes by 255, and leave normalization to the network"
        )


def keep_worse(a: AttackResult, b: AttackResult, attack: Attack) -> AttackResult:
    """Return, for each image, the run with the lower score of the first figure; `a` where they are equal."""
    figure = attack.figures[0]
    second = figure.score(b.after[:, 0]) < figure.score(a.after[:, 0])

    def pick(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(second.view(-1, *[1] * (x.ndim - 1)), y, x)

    return AttackResult(
        images=pick(a.images, b.images),
        embeddings=pick(a.embeddings, b.embeddings),
        targets=a.targets,
        before=a.before,
        after=pick(a.after, b.after),
        first_loss=pick(a.first_loss, b.first_loss),
        late_loss=pick(a.late_loss, b.late_loss),
        end_loss=pick(a.end_loss, b.end_loss),
        blind=a.blind & b.blind,
        restart=pick(a.restart, b.restart),
        image_passes=a.image_passes + b.image_passes,
        cancelled=a.cancelled or b.cancelled,
    )
