"""Universal perturbations: one r for all images, learnt on a sample and judged on others."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, draw_or_check
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.attacks.pgd import PGDOptions, ball_around, gradient_pass
from hardrank.trainer.attacks.runner import AttackOptions, AttackProgress, AttackResult, check_images, never_cancel
from hardrank.trainer.attacks.starts import random_starts

_STREAM: Final = 3_000_089
_MOMENTUM: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class UniversalOptions(CheckedOptions):
    """How a universal perturbation is learnt; its budget is that of the other attacks."""

    images: int = option(100, minimum=1, unit="images", help="images that the perturbation is learnt on")
    epochs: int = option(20, minimum=1, unit="passes", help="how often each of them is seen")
    batch: int = option(25, minimum=1, unit="images", help="images of an update")
    rate: float = option(
        0.25, minimum=0, maximum=2, unit="of ε", help="length of the first update; it falls linearly to 0"
    )


def share_targets(victims: Victims) -> Victims:
    """Return `victims` for which an attack draws the same targets, where its draw ignores the image.

    One perturbation cannot take each image to a target of its own: ES needs none, TMA, QA+ and CA+ share theirs, and
    QA- and CA- keep the items near to each image.
    """
    return replace(victims, ids=torch.zeros_like(victims.ids))


def learn_universal(
    attack: Attack,
    embed: Embed,
    images: Tensor,
    victims: Victims,
    gallery: Gallery,
    budget: PGDOptions,
    options: UniversalOptions,
    *,
    seed: int = 0,
    on_update: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Learn one perturbation for all images.

    Minimizes the mean loss of the attack by signed gradients with momentum (after Moosavi-Dezfooli et al., CVPR 2017,
    and Li et al., *Universal perturbation attack against image retrieval*, ICCV 2019), from a random start.

    Args:
        attack: the goal.
        embed: the network, which gives the gradients.
        images: (L,3,H,W) in [0,1], to learn on.
        victims: the same images as the gallery sees them.
        gallery: the benign gallery.
        budget: ε and the norm; `eot` passes are averaged.
        options: how it is learnt.
        seed: of the targets, the start and the order of images.
        on_update: called before each update with the number done and the total; may raise to stop.

    Returns:
        r (3,H,W), within the budget. Add it to images and clip them to [0,1]; see `UniversalMethod`.

    Raises:
        AttackError: for pixels outside [0,1], or targets that the gallery cannot provide.
    """
    check_images(images, victims)
    shared = share_targets(victims)
    objective = attack.objective(shared, gallery, attack.draw(shared, gallery, seed=seed))
    gray = torch.full_like(images[:1], 0.5)  # r is kept as a change of a gray image, which has room on both sides
    ball = ball_around(gray, epsilon=budget.epsilon, norm=budget.norm)
    moved = random_starts(gray, budget, shared.ids[:1], seed=seed, restart=0)
    order = np.random.default_rng([seed, _STREAM])
    batches = [
        torch.from_numpy(part).to(images.device)
        for _ in range(options.epochs)
        for part in np.array_split(order.permutation(len(images)), -(-len(images) // options.batch))
    ]
    speed = torch.zeros_like(gray)
    for update, rows in enumerate(batches):
        on_update(update, len(batches))
        outside = images[rows] + (moved - gray)
        x = outside.clamp(0, 1)
        gradient = gradient_pass(embed, x, objective, rows, update, eot=budget.eot).gradient
        if gradient is None:
            continue
        mean = torch.where(x == outside, gradient, torch.zeros_like(gradient)).mean(0, keepdim=True)
        speed = _MOMENTUM * speed + mean / mean.abs().mean().clamp_min(1e-12)
        length = options.rate * budget.epsilon * (1 - update / len(batches))
        moved = ball.project(moved - length * ball.direction(speed.clone()))
    return (moved - gray)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class UniversalMethod:
    """Applies a universal perturbation for each attack, in place of `run_attack`."""

    perturbations: Mapping[str, Tensor]
    """By name of the attack, r (3,H,W)."""
    learnt: Mapping[str, Any]
    """How they were learnt, as JSON values."""

    def describe(self) -> dict[str, Any]:
        """Return its name and how it was made, ready for JSON."""
        return {"name": "universal", **self.learnt}

    def apply(self, attack: str, images: Tensor) -> Tensor:
        """Perturb `images` (G,3,H,W) for the goal of an attack."""
        return (images + self.perturbations[attack].to(images)).clamp(0, 1)

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
        cancel: Callable[[], bool] = never_cancel,
    ) -> AttackResult:
        """Judge `images` (G,3,H,W), which should be others than those learnt on; see `run_attack`."""
        check_images(images, victims)
        targets = draw_or_check(attack, targets, share_targets(victims), gallery, seed=seed)
        rows = torch.arange(len(victims), device=victims.own.device)
        objective = attack.objective(victims, gallery, targets)
        perturbed = self.apply(attack.name, images)
        with torch.no_grad():
            embeddings = (judge or embed)(perturbed)
            first, last = (objective(points[:, None], rows, 1) for points in (victims.embeddings, embeddings))
            before, after = (
                attack.measure(points, victims, gallery, targets) for points in (victims.embeddings, embeddings)
            )
        nothing = torch.zeros_like(victims.own)
        return AttackResult(
            images=perturbed,
            embeddings=embeddings,
            targets=targets,
            before=before,
            after=after,
            first_loss=first,
            late_loss=last,
            end_loss=last,
            blind=nothing.bool(),
            restart=nothing,
            image_passes=nothing + 1,
            cancelled=cancel(),
        )


def learn_all(
    attacks: Mapping[str, Attack],
    embed: Embed,
    images: Tensor,
    victims: Victims,
    gallery: Gallery,
    budget: PGDOptions,
    options: UniversalOptions,
    *,
    seed: int = 0,
    on_update: Callable[[int, int], None] = lambda done, total: None,
) -> UniversalMethod:
    """Learn a perturbation for each of `attacks`; see `learn_universal`."""
    found = {
        attack.name: learn_universal(
            attack,
            embed,
            images,
            victims,
            gallery,
            budget,
            options,
            seed=seed,
            on_update=lambda done, total, place=place: on_update(place * total + done, len(attacks) * total),  # type: ignore[misc]
        )
        for place, attack in enumerate(attacks.values())
    }
    rows = victims.own.cpu().numpy()
    learnt = {**asdict(options), "seed": seed, "rows": int(rows.sum()), "learnt on": len(rows)}
    return UniversalMethod(perturbations=found, learnt=learnt)
