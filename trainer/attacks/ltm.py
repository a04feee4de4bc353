"""LTM, learning to misrank: unmatched items come nearer to the query than matched ones."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import (
    ROUNDING,
    AttackedRole,
    Figure,
    Gallery,
    Victims,
    items_of_class,
    measure_recall,
    no_targets,
    recall_figure,
    require_two_classes,
)
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.options import CheckedOptions, option
from hardrank.trainer.metric.distances import row_distances


class OwnCopy(StrEnum):
    """Whether the query's own copy in the gallery is one of the matched items of the loss."""

    MATCHED = "matched"
    """As in the released code of the paper, although Recall@1 leaves it out: the query must first leave itself."""
    EXCLUDED = "excluded"
    """The loss leaves it out, as the figure does."""


@dataclass(frozen=True)
class _MisrankObjective:
    """max over unmatched x of d(q̃,x) − min over matched of d(q̃,x), floored at 0; 0 where nothing is matched."""

    gallery: Gallery
    matched: Tensor
    """(G,N) bool."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        points = embeddings[:, 0]
        with torch.no_grad():  # only the two extremes have a gradient, so only they need a graph
            d, matched = self.gallery.distances(points), self.matched[rows]
            farthest = d.masked_fill(matched, -torch.inf).argmax(1)
            closest = d.masked_fill_(matched.logical_not(), torch.inf).argmin(1)
        items = self.gallery.embeddings
        near = row_distances(points, items[closest])
        if step == 0:
            # The own copy, from which an exact network is at distance 0 without a gradient, is a rounding error
            # away in bf16: that error is no direction to begin with.
            near = torch.where(near < ROUNDING, near.detach(), near)
        loss = torch.relu(row_distances(points, items[farthest]) - near)
        return torch.where(matched.any(1), loss, torch.zeros_like(loss))


@dataclass(frozen=True, kw_only=True)
class LearningToMisrank(CheckedOptions):
    """LTM (Wang et al., *Transferable, controllable, and inconspicuous adversarial attacks*, CVPR 2020)."""

    name: ClassVar[str] = "LTM"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    figures: ClassVar[tuple[Figure, ...]] = (recall_figure("LTM"),)
    target_count: ClassVar[int] = 0
    """None: labels decide."""
    width: ClassVar[int] = 3
    """Distances, masked twice."""
    own_copy: OwnCopy = option(  # noqa: RUF009
        OwnCopy.MATCHED,
        help="LTM: whether the loss counts the query's own copy in the gallery as matched, as the released code of "
        "the paper does, or leaves it out, as Recall@1 does",
    )

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Nothing to draw: (G,0). Raises `AttackError` for a gallery of one class."""
        require_two_classes(gallery, "LTM")
        return no_targets(victims)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _MisrankObjective:
        """See `_MisrankObjective`; raises `AttackError` for a query whose class the gallery lacks."""
        matched = items_of_class(victims, gallery, "LTM", with_own=self.own_copy is OwnCopy.MATCHED)
        return _MisrankObjective(gallery, matched)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Recall@1 in % → (G,1)."""
        return measure_recall(embeddings, victims, gallery)


KINDS: Final = (
    AttackKind(
        name="LTM",
        title="items of other classes rank before items of the query's class",
        story="The image is changed so that items of other classes are found before items of its own class.",
        build=LearningToMisrank,
        aimed={"own_copy": OwnCopy.EXCLUDED},
    ),
)
