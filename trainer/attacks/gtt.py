"""GTT, greedy top-1 translocation: the top-1 item leaves the first results."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.direction import Direction
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.attacks.pgd import Objective
from hardrank.trainer.attacks.qa import RankObjective
from hardrank.trainer.metric.distances import leave_out, nearest, row_distances

_MARGIN: Final = 0.02
"""How much nearer than the top-1 item others must be before an image is finished, with `PassedBy.FIRST`."""


class PassedBy(StrEnum):
    """Which items the loss moves before the top-1 item t."""

    ALL = "all"
    """All of the gallery, as in the released code of the paper: mean over x of max(0, d(q̃,x) − d(q̃,t))."""
    FIRST = "first"
    """As many as push t out of the first results, the own copy left out, as in the figure."""


@dataclass(frozen=True)
class _RetainObjective:
    """max(0, d(q̃,x) − d(q̃,t) + margin), x the `first`-th nearest item besides t and the own copy."""

    gallery: Gallery
    victims: Victims
    targets: Tensor
    """t (G,1)."""
    first: int

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        points, t, items = embeddings[:, 0], self.targets[rows], self.gallery.embeddings
        with torch.no_grad():  # only two items have a gradient
            d = leave_out(self.gallery.distances(points), self.victims.own[rows]).scatter(1, t, torch.inf)
            found = d.topk(min(self.first, d.shape[1]), largest=False)
            x, exists = found.indices[:, -1], found.values[:, -1].isfinite()
        loss = torch.relu(row_distances(points, items[x]) - row_distances(points, items[t[:, 0]]) + _MARGIN)
        return torch.where(exists, loss, torch.zeros_like(loss))


@dataclass(frozen=True, kw_only=True)
class GreedyTopTranslocation(CheckedOptions):
    """GTT (Zhou et al., *Adversarial attack and defense in deep ranking*, 2021)."""

    name: ClassVar[str] = "GTT"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    target_count: ClassVar[int] = 1
    """One: t."""
    passed_by: PassedBy = option(  # noqa: RUF009
        PassedBy.ALL,
        help="GTT: the items that the loss moves before the top-1 item; all, as in the released code of the paper, or "
        "as many as the figure asks for",
    )
    first: int = option(
        4, minimum=1, unit="items", help="the original top-1 item counts as retained among so many results"
    )

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Whether t is retained."""
        return (
            Figure(
                key="GTT",
                unit="%",
                help=f"queries with the original top-1 item still among the first {self.first}",
                attacked=0.0,
                resisted=100.0,
            ),
        )

    @property
    def width(self) -> int:
        """Distances and a hinge, or a copy of them."""
        return 3 if self.passed_by is PassedBy.FIRST else 2

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Find t, the nearest item: nothing is random."""
        return nearest(victims.embeddings, gallery.embeddings, victims.own, 1)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> Objective:
        """Lower t, as QA− with one candidate does, or only as far as the figure asks for."""
        if self.passed_by is PassedBy.FIRST:
            return _RetainObjective(gallery, victims, targets, self.first)
        return RankObjective(gallery, targets, Direction.LOWER)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Return 100 where fewer than `first` items, the own copy left out, are nearer than t → (G,1)."""
        d = leave_out(gallery.distances(embeddings), victims.own)
        ahead = (d < d.gather(1, targets)).sum(1, keepdim=True)
        return 100.0 * (ahead < self.first).to(embeddings.dtype)


KINDS: Final = (
    AttackKind(
        name="GTT",
        title="the top-1 item leaves the first results",
        story="The image is changed so that its first answer is no longer among the first four.",
        build=GreedyTopTranslocation,
        aimed={"passed_by": PassedBy.FIRST},
    ),
)
