"""MARGIN: an item of another class comes nearer to the query than every item of the query's class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import (
    AttackedRole,
    Figure,
    Gallery,
    Victims,
    items_of_class,
    measure_recall,
    nearest_unmatched,
    recall_figure,
    require_two_classes,
)
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.metric.distances import row_distances

_BEYOND: Final = 4.0
"""More than any distance on the unit sphere."""


@dataclass(frozen=True)
class _MarginObjective:
    """max(0, min over `items` u of d(q̃,u) − min over positives p of d(q̃,p) + margin); 0 without a positive."""

    gallery: Gallery
    positives: Tensor
    """(G,N) bool: items of the query's class, the own copy left out."""
    items: Tensor
    """(G,T): rows of the gallery, of other classes."""
    margin: float

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        points, positives, items = embeddings[:, 0], self.positives[rows], self.items[rows]
        with torch.no_grad():  # only the two nearest items have a gradient
            d = self.gallery.distances(points)
            u = items.gather(1, d.gather(1, items).argmin(1, keepdim=True)).squeeze(1)
            p = d.masked_fill_(positives.logical_not(), torch.inf).argmin(1)
        stored = self.gallery.embeddings
        loss = torch.relu(row_distances(points, stored[u]) - row_distances(points, stored[p]) + self.margin)
        return torch.where(positives.any(1), loss, torch.zeros_like(loss))


@dataclass(frozen=True, kw_only=True)
class MarginAttack(CheckedOptions):
    """The margin of Recall@1 as a loss, once for each of several targets; each image keeps its worst run.

    It is no part of ERS: its Recall@1 counts in the worst case that is reported beside ERS.
    """

    name: ClassVar[str] = "MARGIN"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    figures: ClassVar[tuple[Figure, ...]] = (recall_figure("MARGIN"),)
    width: ClassVar[int] = 4
    """Distances, masked and sorted."""
    targets: int = option(
        5, minimum=1, unit="items", help="items of other classes tried in turn, until the attack succeeds"
    )
    margin: float = option(
        0.02,
        minimum=0,
        maximum=2,
        unit="of distance",
        help="how much nearer than the query's class the target must be before an image is finished",
    )

    @property
    def target_count(self) -> int:
        """One for each run."""
        return self.targets

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Find the nearest item of each of the nearest other classes, then the next items: nothing is random.

        With fewer items of other classes than targets, the nearest one fills the rest. Raises `AttackError` for a
        gallery of one class.
        """
        require_two_classes(gallery, "MARGIN")
        d = nearest_unmatched(victims, gallery, victims.labels)
        _, classes = gallery.labels.unique(return_inverse=True)
        best = d.new_full((len(d), int(classes.max()) + 1), torch.inf)
        best.scatter_reduce_(1, classes.expand_as(d), d, "amin")
        order = torch.where(d == best[:, classes], d, d + _BEYOND)
        found = order.topk(min(self.targets, len(gallery)), largest=False)
        rows = torch.where(found.values.isfinite(), found.indices, found.indices[:, :1])
        return torch.cat([rows, rows[:, :1].expand(-1, self.targets - rows.shape[1])], dim=1)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _MarginObjective:
        """The loss for whichever target is nearest; raises `AttackError` for a query whose class the gallery lacks."""
        positives = items_of_class(victims, gallery, "MARGIN", with_own=False)
        return _MarginObjective(gallery, positives, targets, self.margin)

    def objectives(self, victims: Victims, gallery: Gallery, targets: Tensor) -> Sequence[_MarginObjective]:
        """The loss for each target."""
        whole = self.objective(victims, gallery, targets)
        return [_MarginObjective(gallery, whole.positives, column, self.margin) for column in targets.split(1, dim=1)]

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Recall@1 in % → (G,1)."""
        return measure_recall(embeddings, victims, gallery)


KINDS: Final = (
    AttackKind(
        name="MARGIN",
        title="an item of another class comes before every item of the query's class",
        story="The image is changed until its first answer is of another class; several classes are tried.",
        build=MarginAttack,
    ),
)
