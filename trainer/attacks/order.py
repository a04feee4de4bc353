"""ORDER: the first k items of a query's ranking are put into a given order."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims, draw_each, rank_percent
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.direction import Direction, rank_hinge
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.metric.distances import nearest


@dataclass(frozen=True)
class _OrderObjective:
    """Mean over i < j of max(0, d(q̃,c_i) − d(q̃,c_j)) + ξ·L_QA+(q̃, C), C in the desired order."""

    gallery: Gallery
    targets: Tensor
    """(G,k), in the desired order."""
    weight: float

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        d, targets = self.gallery.distances(embeddings[:, 0]), self.targets[rows]
        disorder = torch.relu(-_gaps(d.gather(1, targets))).mean(1)
        return disorder + self.weight * rank_hinge(d, targets, Direction.RAISE)


@dataclass(frozen=True, kw_only=True)
class OrderAttack(CheckedOptions):
    """The relative order attack (Zhou et al., *Practical relative order attack*, ICCV 2021)."""

    name: ClassVar[str] = "ORDER"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    k: int = option(5, minimum=2, unit="items", help="how many items, the query's first, change their order")
    weight: float = option(1.0, minimum=0, help="ξ, the weight of keeping them at the top")

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Agreement with the desired order, and where the items rank."""
        tau = Figure(
            key="ORDER",
            unit="",
            help="Kendall's τ between the desired order and the order found",
            attacked=1.0,
            resisted=0.0,
        )
        return (tau, Direction.RAISE.figure("ORDER:rank", "mean rank of the items in the query's ranking"))

    @property
    def target_count(self) -> int:
        """k items, in the desired order."""
        return self.k

    @property
    def width(self) -> int:
        """A hinge for each item."""
        return 1 + self.k

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Draw an order of the k nearest items, all equally likely."""
        first = nearest(victims.embeddings, gallery.embeddings, victims.own, self.k)
        order = draw_each(victims, seed=seed, attack=self.name, choose=lambda rng: rng.permutation(self.k))
        return first.gather(1, order)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _OrderObjective:
        """See `_OrderObjective`."""
        return _OrderObjective(gallery, targets, self.weight)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Kendall's τ in [−1,1], and the mean rank / N in % → (G,2)."""
        d = gallery.distances(embeddings)
        tau = _gaps(d.gather(1, targets)).sign().mean(1)
        return torch.stack([tau, rank_percent(d, targets)], dim=1)


def _gaps(distances: Tensor) -> Tensor:
    """d_j − d_i for all i < j of `distances` (G,k) → (G,k(k−1)/2)."""
    i, j = torch.triu_indices(distances.shape[1], distances.shape[1], offset=1, device=distances.device)
    return distances[:, j] - distances[:, i]


KINDS: Final = (
    AttackKind(
        name="ORDER",
        title="the first k items appear in a given order",
        story="The image is changed so that its first answers appear in another order.",
        build=OrderAttack,
        ordered=True,
    ),
)
