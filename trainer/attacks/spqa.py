"""SPQA+ and SPQA−: candidates rise or fall in a query's ranking while its top matches stay in place."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import (
    AttackedRole,
    Figure,
    Gallery,
    Victims,
    draw_from_top,
    draw_uniform,
    rank_percent,
)
from hardrank.trainer.attacks.declaration import AttackKind, TargetChoice
from hardrank.trainer.attacks.direction import Direction, rank_hinge
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.metric.distances import nearest


@dataclass(frozen=True)
class _PreservingObjective:
    """L_QA±(q̃, C) + ξ·L_QA+(q̃, kept)."""

    gallery: Gallery
    targets: Tensor
    """(G,m)."""
    kept: Tensor
    """(G,k)."""
    direction: Direction
    weight: float

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        d = self.gallery.distances(embeddings[:, 0])
        moved = rank_hinge(d, self.targets[rows], self.direction)
        return moved + self.weight * rank_hinge(d, self.kept[rows], Direction.RAISE)


@dataclass(frozen=True, kw_only=True)
class SemanticsPreservingQueryAttack(CheckedOptions):
    """SP-QA+ and SP-QA− (Zhou et al., *Adversarial ranking attack and defense*, ECCV 2020)."""

    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    direction: Direction = Direction.RAISE
    """Raise the candidates, or lower them."""
    m: int = option(1, minimum=1, unit="candidates", help="how many candidates move")
    kept: int = option(5, minimum=1, unit="items", help="how many of the query's top matches stay in place")
    weight: float = option(1.0, minimum=0, help="ξ, the weight of what stays against what moves")
    share: float = option(
        0.01,
        minimum=0,
        maximum=1,
        help="SPQA−: candidates come from this share of the gallery, nearest first, after those kept",
    )

    @property
    def name(self) -> str:
        """`SPQA+` or `SPQA-`."""
        return f"SPQA{self.direction}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The candidates' rank, and that of what is kept."""
        kept = Direction.RAISE.figure(f"{self.name}:kept", "mean rank of the query's original top matches")
        return (self.direction.figure(self.name, "mean rank of the candidates in the query's ranking"), kept)

    @property
    def target_count(self) -> int:
        """m candidates."""
        return self.m

    @property
    def width(self) -> int:
        """A hinge for each candidate and each item kept."""
        return 1 + self.m + self.kept

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """SPQA+: uniform from the gallery; SPQA−: without replacement from the top share after those kept."""
        if self.direction is Direction.RAISE:
            return draw_uniform(victims, gallery, seed=seed, attack=self.name, count=self.m)
        return draw_from_top(
            victims,
            gallery,
            seed=seed,
            attack=self.name,
            count=self.m,
            share=self.share,
            replace=False,
            after=self.kept,
        )

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _PreservingObjective:
        """See `_PreservingObjective`."""
        kept = self._matches(victims, gallery)
        return _PreservingObjective(gallery, targets, kept, self.direction, self.weight)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Mean rank / N of the candidates and of the items kept, the own copy counted, in % → (G,2)."""
        d = gallery.distances(embeddings)
        kept = self._matches(victims, gallery)
        return torch.stack([rank_percent(d, targets), rank_percent(d, kept)], dim=1)

    def _matches(self, victims: Victims, gallery: Gallery) -> Tensor:
        return nearest(victims.embeddings, gallery.embeddings, victims.own, self.kept)


_CHOSEN: Final = TargetChoice(noun="target", count_option="m")

KINDS: Final = (
    AttackKind(
        name="SPQA+",
        title="as QA+, while the query's top matches stay in place",
        story="The image is changed so that {target} becomes one of its answers, while its top answers stay.",
        build=SemanticsPreservingQueryAttack,
        targets=_CHOSEN,
        fixed={"direction": Direction.RAISE},
    ),
    AttackKind(
        name="SPQA-",
        title="as QA-, while the query's top matches stay in place",
        story="The image is changed so that {target} disappears from its answers, while its top answers stay.",
        build=SemanticsPreservingQueryAttack,
        targets=_CHOSEN,
        fixed={"direction": Direction.LOWER},
        defaults={"weight": 100.0},
    ),
)
