"""GTM, greedy top-1 misranking: the query is drawn to an item of another class than its top-1 item."""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from hardrank.trainer.attacks.attack import (
    Figure,
    Gallery,
    Victims,
    measure_recall,
    nearest_unmatched,
    recall_figure,
    require_two_classes,
)
from hardrank.trainer.attacks.options import option
from hardrank.trainer.metric.distances import nearest
from hardrank.trainer.metric.losses import distance


class Unmatched(StrEnum):
    """Which item of another class the query is drawn to."""

    NEAREST = "nearest"
    """The nearest of the gallery."""
    REFERENCE = "reference"
    """As the published numbers were made: its place among the unmatched items, read as a gallery row."""


@dataclass(frozen=True)
class _PullObjective:
    """d(q̃, u)."""

    items: Tensor
    """u (G,D)."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        return distance(embeddings[:, 0], self.items[rows])


@dataclass(frozen=True, kw_only=True)
class GreedyTopMisranking:
    """GTM (evaluation: Ten attack results)."""

    unmatched: Unmatched = option(  # noqa: RUF009
        Unmatched.NEAREST,
        help="the item drawn to: the nearest of another class than the top-1, or the row that the published "
        "numbers took for it",
    )

    @property
    def name(self) -> str:
        """`GTM`."""
        return "GTM"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Recall@1."""
        return (recall_figure("GTM"),)

    @property
    def target_count(self) -> int:
        """One: u."""
        return 1

    @property
    def width(self) -> int:
        """Distances, when u is sought."""
        return 3

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
