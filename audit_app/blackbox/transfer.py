"""Transfer: white-box on a surrogate whose weights are known, judged on a model that is never asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hardrank.audit_app.blackbox.method import BlackBoxResult
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, ignore_progress
from hardrank.audit_app.subjects.loading import Subject
from hardrank.models.embedder import Embed
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims, check_targets
from hardrank.trainer.attacks.runner import AttackOptions, AttackProgress, never, run_attack

_BATCH: Final = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """An attack method for the model of one gallery; make it with `transfer_from`."""

    surrogate: Subject
    embed: Embed
    """The surrogate on the target's pixels: (N,3,S,S) → (N,D'), differentiable."""
    judge: Embed
    """The same in float32."""
    gallery: Tensor
    """(N,D'): the target's gallery as the surrogate embeds it."""

    NAME = "transfer"

    def describe(self) -> dict[str, Any]:
        """Give its name and the surrogate, ready for JSON."""
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
        cancel: Callable[[], bool] = never,
    ) -> BlackBoxResult:
        """Attack the surrogate towards the targets that the target's ranking gives, and measure on the target.

        Losses and progress are the surrogate's; figures before and after are the target's.
        """
        if targets is None:
            targets = attack.draw(victims, gallery, seed=seed)
        else:
            targets = check_targets(targets, victims, gallery, attack.target_count)
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
    """Prepare transfer from `surrogate` to the model of `embedded`: the gallery is embedded by the surrogate too.

    Where the two take images of different sizes, the surrogate sees the target's pixels resized (antialiased
    bilinear, differentiable). Raises `SubjectError` for a surrogate without gradients.
    """
    side = surrogate.size

    def through(network: Embed) -> Embed:
        if side == embedded.subject.size:
            return network
        return lambda x: network(
            F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        )

    judge = through(surrogate.judge)
    embed = through(surrogate.gradients)
    parts, total = [], len(embedded)
    with torch.no_grad():
        for rows in torch.arange(total).split(_BATCH):
            parts.append(judge(embedded.images(rows)))
            done = int(rows[-1]) + 1
            on_progress(StageProgress(stage=f"surrogate {surrogate.name}", done=done, total=total))
    return Transfer(surrogate=surrogate, embed=embed, judge=judge, gallery=torch.cat(parts))
