"""Patches: the pixels of one square of each image may take any value, and all others stay."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, draw_or_check
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.attacks.pgd import Objective, PGDOptions, box, gradient_pass
from hardrank.trainer.attacks.runner import (
    AttackOptions,
    AttackProgress,
    AttackResult,
    check_images,
    keep_worse,
    never_cancel,
    run_attack,
)
from hardrank.trainer.attacks.starts import random_numbers

_STREAM: Final = 3_000_073


class PatchLocation(StrEnum):
    """Where the square is."""

    FREE = "free"
    """Where the loss has the largest gradient, or at random places; each image keeps the worst."""
    CENTER = "center"
    CORNER = "corner"
    """At the top left."""


@dataclass(frozen=True, kw_only=True)
class PatchMethod(CheckedOptions):
    """Runs any attack with a patch instead of the budget ε (after Brown et al., *Adversarial patch*, 2017)."""

    area: float = option(0.05, minimum=1e-4, maximum=1, unit="of the image", help="area of the square")
    location: PatchLocation = option(  # noqa: RUF009
        PatchLocation.FREE, help="where the square is: searched for each image, at the center, or in the corner"
    )
    places: int = option(
        3, minimum=1, unit="places", help="places tried for a free square: the largest gradient, then random ones"
    )
    alpha: float = option(0.1, minimum=0, maximum=1, unit="of pixels in [0,1]", help="α, the length of a step")

    def describe(self) -> dict[str, Any]:
        """Return its name and options, ready for JSON."""
        return {"name": "patch", **asdict(self), "location": self.location.value}

    def side(self, images: Tensor) -> int:
        """Return the side in pixels of the square in `images` (…,H,W)."""
        height, width = images.shape[-2:]
        return min(height, width, max(1, round(math.sqrt(self.area * height * width))))

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
        """Attack `images` (G,3,H,W) as `run_attack` does, in a square of each. ε, α and the norm are not used.

        Raises:
            AttackError: for pixels outside [0,1], or targets that the gallery cannot provide.
        """
        check_images(images, victims)
        targets = draw_or_check(attack, targets, victims, gallery, seed=seed)
        unbounded = replace(options, epsilon=1.0, alpha=self.alpha)
        objective = attack.objective(victims, gallery, targets)
        worst: AttackResult | None = None
        for corners in self._places(embed, images, objective, victims.ids, seed=seed):
            inside = squares(images, corners, self.side(images))
            found = run_attack(
                attack,
                embed,
                images,
                victims,
                gallery,
                unbounded,
                seed=seed,
                targets=targets,
                judge=judge,
                on_step=on_step,
                cancel=cancel,
                ball=box(torch.where(inside, 0, images), torch.where(inside, 1, images)),
            )
            worst = found if worst is None else keep_worse(worst, found, attack)
            if found.cancelled:
                break
        assert worst is not None
        return worst

    def noise(self, images: Tensor, options: PGDOptions, ids: Tensor, *, seed: int) -> Tensor:
        """Return `images` (G,3,H,W) with random pixels in a square of each, at a random place if it is free."""
        corners = self._fixed(images)
        if corners is None:
            corners = self._random(images, ids, seed=seed, count=1)[0]
        pixels = random_numbers(images, ids, seed=seed)
        return torch.where(squares(images, corners, self.side(images)), pixels, images)

    def _places(self, embed: Embed, images: Tensor, objective: Objective, ids: Tensor, *, seed: int) -> list[Tensor]:
        """Return the corners (G,2) of the squares to try, row and column of the top left pixel."""
        if (fixed := self._fixed(images)) is not None:
            return [fixed]
        state = gradient_pass(embed, images, objective, torch.arange(len(images), device=images.device), 0)
        if state.gradient is None:
            return self._random(images, ids, seed=seed, count=self.places)
        return [
            largest_square(state.gradient, self.side(images)),
            *self._random(images, ids, seed=seed, count=self.places - 1),
        ]

    def _fixed(self, images: Tensor) -> Tensor | None:
        if self.location is PatchLocation.FREE:
            return None
        corner = torch.zeros((len(images), 2), dtype=torch.long, device=images.device)
        if self.location is PatchLocation.CENTER:
            corner += torch.tensor([(size - self.side(images)) // 2 for size in images.shape[-2:]]).to(corner.device)
        return corner

    def _random(self, images: Tensor, ids: Tensor, *, seed: int, count: int) -> list[Tensor]:
        """Draw corners, which depend on seed and image alone."""
        room = [size - self.side(images) + 1 for size in images.shape[-2:]]
        drawn = [np.random.default_rng([seed, _STREAM, int(i)]).integers(0, room, (count, 2)) for i in ids.tolist()]
        return list(torch.from_numpy(np.stack(drawn, axis=1)).to(images.device))


def squares(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return which pixels (G,1,H,W) lie in the squares of `side` pixels at `corners` (G,2) of `images` (G,3,H,W)."""
    inside = [
        (at >= corner[:, None]) & (at < corner[:, None] + side)
        for at, corner in zip(
            (torch.arange(size, device=images.device) for size in images.shape[-2:]), corners.unbind(1), strict=True
        )
    ]
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def largest_square(gradient: Tensor, side: int) -> Tensor:
    """Return the corner (G,2) of the square of `side` pixels in which Σ|`gradient`| (G,3,H,W) is largest."""
    sums = torch.nn.functional.avg_pool2d(gradient.abs().sum(1, keepdim=True), side, stride=1)[:, 0]
    place = sums.flatten(1).argmax(1)
    return torch.stack([place // sums.shape[2], place % sums.shape[2]], dim=1)
