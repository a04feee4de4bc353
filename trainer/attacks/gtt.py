"""GTT, greedy top-1 translocation: the top-1 item leaves the first results."""

from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.direction import Direction
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.attacks.qa import RankObjective
from hardrank.trainer.metric.distances import leave_out, nearest


@dataclass(frozen=True, kw_only=True)
class GreedyTopTranslocation(CheckedOptions):
    """GTT (Zhou et al., *Adversarial attack and defense in deep ranking*, 2021).

    It minimises the mean over x of max(0, d(q̃,x) − d(q̃,t)).
    """

    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    first: int = option(
        4, minimum=1, unit="items", help="the original top-1 item counts as retained among so many results"
    )

    @property
    def name(self) -> str:
        """`GTT`."""
        return "GTT"

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
    def target_count(self) -> int:
        """One: t."""
        return 1

    @property
    def width(self) -> int:
        """Distances and a hinge."""
        return 2

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Find t, the nearest item: nothing is random."""
        return nearest(victims.embeddings, gallery.embeddings, victims.own, 1)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> RankObjective:
        """Lower t, as QA− with one candidate does."""
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
    ),
)
