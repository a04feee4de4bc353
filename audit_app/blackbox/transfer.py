"""Transfer: a white-box attack on a surrogate, measured on another model that is never queried."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.blackbox.method import BlackBoxResult
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.embedder import Embed
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, draw_or_check
from hardrank.trainer.attacks.runner import AttackOptions, AttackProgress, never_cancel, run_attack

_BATCH: Final = 256
_CHECKED: Final = 16
"""Number of images on which the gradients of a converted surrogate are checked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """A transfer attack on one model; made by `transfer_from`."""

    surrogate: Subject
    embed: Embed
    """The surrogate on pixels of the model under audit: (N,3,S,S) → (N,D'), differentiable."""
    judge: Embed
    """The same in float32."""
    gallery: Tensor
    """(N,D'): the gallery, embedded by the surrogate."""

    NAME = "transfer"

    def describe(self) -> dict[str, Any]:
        """Return its name and the surrogate, ready for JSON."""
        return {"name": self.NAME, "surrogate": self.surrogate.name, "sha256": self.surrogate.sha256}

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
    ) -> BlackBoxResult:
        """Attack the surrogate with the targets of the model under audit, and measure on that model.

        Losses and progress are the surrogate's; figures before and after are those of the model under audit.
        """
        targets = draw_or_check(attack, targets, victims, gallery, seed=seed)
        with torch.no_grad():
            seen = replace(victims, embeddings=self.judge(images))
        result = run_attack(
            attack,
            self.embed,
            images,
            seen,
            Gallery(self.gallery, gallery.labels),
            options,
            seed=seed,
            targets=targets,
            judge=self.judge,
            on_step=on_step,
            cancel=cancel,
        )
        with torch.no_grad():
            embeddings = (judge or embed)(result.images)
            before = attack.measure(victims.embeddings, victims, gallery, targets)
            after = attack.measure(embeddings, victims, gallery, targets)
        moved = {**vars(result), "embeddings": embeddings, "before": before, "after": after}
        return BlackBoxResult(**moved, queries=torch.zeros_like(victims.own))


def transfer_from(
    surrogate: Subject, embedded: EmbeddedGallery, *, on_progress: OnProgress = ignore_progress
) -> Transfer:
    """Prepare a transfer attack, and embed the gallery with the surrogate.

    If the two models take images of different sizes, the surrogate's input is resized (antialiased bilinear,
    differentiable).

    Args:
        surrogate: The model whose gradients are used.
        embedded: The gallery of the model under audit.
        on_progress: Called with the progress of embedding.

    Raises:
        SubjectError: The surrogate has no gradients.
    """
    side = surrogate.size

    def through(network: Embed) -> Embed:
        return lambda x: network(resize_images(x, side))

    judge = through(surrogate.judge)
    parts, total = [], len(embedded)
    with torch.no_grad():
        some = embedded.images(torch.arange(min(_CHECKED, total)))
        resized = resize_images(some, side)
        surrogate = surrogate.with_checked_gradients(resized, surrogate.judge(resized))
        embed = through(surrogate.gradients)
        for rows in torch.arange(total).split(_BATCH):
            parts.append(judge(embedded.images(rows)))
            done = int(rows[-1]) + 1
            on_progress(StageProgress(stage=f"surrogate {surrogate.name}", done=done, total=total))
    return Transfer(surrogate=surrogate, embed=embed, judge=judge, gallery=torch.cat(parts))


def resize_images(images: Tensor, side: int) -> Tensor:
    """Resize (N,3,S,S) in [0,1] to `side` pixels, antialiased and differentiable."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
