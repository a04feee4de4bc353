"""GTM, greedy top-1 misranking: the query moves towards an item of another class than its top-1 item."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from torch import Tensor

from hardrank.trainer.attacks.attack import (
    AttackedRole,
    Figure,
    Gallery,
    Victims,
    measure_recall,
    nearest_unmatched,
    recall_figure,
    require_two_classes,
)
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.metric.distances import nearest
from hardrank.trainer.metric.losses import distance


class Unmatched(StrEnum):
    """Which item of another class the query moves towards."""

    NEAREST = "nearest"
    """The nearest one whose class differs from that of the top-1 item."""
    REFERENCE = "reference"
    """As in the released code of the paper, which made the published numbers: an index mistake.

    The position of the nearest item *among the unmatched items* is used as a row of the whole gallery. The row is
    the nearest unmatched item for about half of the queries, and of the top-1 item's own class for a fifth.
    """


def gtm_text(options: Mapping[str, Any]) -> str:
    """Say which item GTM moves towards, by its recorded options; scorecards without `unmatched` took the nearest."""
    if options.get("unmatched") == Unmatched.REFERENCE:
        return "towards the item that the released code of the paper takes, as in published numbers"
    return "towards the true nearest item of another class, unlike published numbers"


@dataclass(frozen=True)
class _PullObjective:
    """d(q̃, u)."""

    items: Tensor
    """u (G,D)."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        return distance(embeddings[:, 0], self.items[rows])


@dataclass(frozen=True, kw_only=True)
class GreedyTopMisranking(CheckedOptions):
    """GTM (Zhou et al., *Adversarial attack and defense in deep ranking*, 2021)."""

    name: ClassVar[str] = "GTM"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    figures: ClassVar[tuple[Figure, ...]] = (recall_figure("GTM"),)
    target_count: ClassVar[int] = 1
    """One: u."""
    width: ClassVar[int] = 3
    """Distances, when u is looked up."""
    unmatched: Unmatched = option(  # noqa: RUF009
        Unmatched.REFERENCE,
        help="GTM: the item that the query moves towards; the row that the released code of the paper takes by an "
        "index mistake, as in all published numbers, or the true nearest of another class than the top-1 item",
    )

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Find u: nothing is random. Raises `AttackError` for a gallery of one class."""
        require_two_classes(gallery, "GTM")
        first = nearest(victims.embeddings, gallery.embeddings, victims.own, 1).squeeze(1)
        labels = gallery.labels[first]
        u = nearest_unmatched(victims, gallery, labels).argmin(1)
        if self.unmatched is Unmatched.REFERENCE:
            unmatched = gallery.labels != labels[:, None]
            u = unmatched.cumsum(1).gather(1, u[:, None]).squeeze(1) - 1
        return u[:, None]

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _PullObjective:
        """See `_PullObjective`."""
        return _PullObjective(gallery.embeddings[targets[:, 0]])

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Recall@1 in % → (G,1)."""
        return measure_recall(embeddings, victims, gallery)


KINDS: Final = (
    AttackKind(
        name="GTM",
        title="the query moves to an item of another class",
        story="The image is changed so that its first answer is of another class.",
        build=GreedyTopMisranking,
        aimed={"unmatched": Unmatched.NEAREST},
    ),
)
