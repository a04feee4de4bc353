"""QA+ and QA−: a query is changed so that m candidates rise to the top of its ranking, or fall to its end."""

from dataclasses import dataclass
from typing import ClassVar, Final

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


@dataclass(frozen=True)
class RankObjective:
    """Mean over candidates c and items x of max(0, ±(d(q̃,c) − d(q̃,x)))."""

    gallery: Gallery
    targets: Tensor
    """(G,m)."""
    direction: Direction

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        return rank_hinge(self.gallery.distances(embeddings[:, 0]), self.targets[rows], self.direction)


@dataclass(frozen=True, kw_only=True)
class QueryAttack(CheckedOptions):
    """QA+ and QA− (Zhou et al., *Adversarial ranking attack and defense*, ECCV 2020)."""

    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    direction: Direction = Direction.RAISE
    """Raise the candidates, or lower them."""
    m: int = option(1, minimum=1, unit="candidates", help="how many candidates move")
    share: float = option(
        0.01, minimum=0, maximum=1, help="QA−: candidates come from this share of the gallery, nearest first"
    )

    @property
    def name(self) -> str:
        """`QA+` or `QA-`."""
        return f"QA{self.direction}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The candidates' rank."""
        return (self.direction.figure(self.name, "mean rank of the candidates in the query's ranking; 50 at random"),)

    @property
    def target_count(self) -> int:
        """m candidates."""
        return self.m

    @property
    def width(self) -> int:
        """A hinge for each candidate."""
        return 1 + self.m

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """QA+: uniform from the gallery; QA−: without replacement from the top share."""
        if self.direction is Direction.RAISE:
            return draw_uniform(victims, gallery, seed=seed, attack=self.name, count=self.m)
        return draw_from_top(
            victims, gallery, seed=seed, attack=self.name, count=self.m, share=self.share, replace=False
        )

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> RankObjective:
        """See `RankObjective`."""
        return RankObjective(gallery, targets, self.direction)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Mean rank / N of the candidates, the image's own copy counted, in % → (G,1)."""
        return rank_percent(gallery.distances(embeddings), targets)[:, None]


_CHOSEN: Final = TargetChoice(noun="target", count_option="m")

KINDS: Final = (
    AttackKind(
        name="QA+",
        title="chosen candidates rise to the top of the query's ranking",
        story="The image is changed so that {target} becomes its first answer.",
        build=QueryAttack,
        targets=_CHOSEN,
        fixed={"direction": Direction.RAISE},
    ),
    AttackKind(
        name="QA-",
        title="chosen candidates fall to the end of the query's ranking",
        story="The image is changed so that {target} disappears from its answers.",
        build=QueryAttack,
        targets=_CHOSEN,
        fixed={"direction": Direction.LOWER},
    ),
)
