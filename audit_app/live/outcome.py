"""What an image does to the rankings of a served model: the one measurement behind every figure of a live attack."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.ranking.movement import EmbeddingShift, RankingMovement, embedding_shift
from hardrank.audit_app.ranking.views import RankingView, Vector, movement_between, ranks_at, views_of
from hardrank.trainer.attacks.attack import Attack, Victims


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingOutcome:
    """The rankings with an image in place of the benign one."""

    movements: tuple[RankingMovement, ...]
    """Of each ranking that the attack moves; most attacks move one."""
    ranks_before: tuple[int, ...]
    """Of the items that the attack is about, over all rankings."""
    ranks_after: tuple[int, ...]
    shift: EmbeddingShift
    """Of the image's embedding."""
    figures: Mapping[str, float]
    """The attack's own results by name, in their units; its `figures` say what they mean."""

    @property
    def overlap(self) -> float:
        """Mean share of the heads that stayed, in [0,1]."""
        return float(np.mean([movement.overlap for movement in self.movements]))

    @property
    def mean_rank_before(self) -> float:
        """Mean of `ranks_before`."""
        return float(np.mean(self.ranks_before))

    @property
    def mean_rank_after(self) -> float:
        """Mean of `ranks_after`."""
        return float(np.mean(self.ranks_after))


class RankingMeter:
    """Measures what becomes of one attack's rankings, wherever its image ends up."""

    def __init__(
        self,
        served: ServedGallery,
        attack: Attack,
        victims: Victims,
        targets: Tensor,
        benign: Vector,
        *,
        own: int | None,
        k: int,
    ) -> None:
        """Set up for one victim (a batch of 1) with gallery rows `targets` (1,T); `benign` (D,) is where it lies."""
        self.served = served
        self.attack = attack
        self.benign = benign
        self.targets: tuple[int, ...] = tuple(int(row) for row in targets[0])
        self.views: list[RankingView] = views_of(attack, served.matrix, own=own, targets=self.targets, benign=benign)
        self._victims = victims
        self._rows = targets
        self._k = k
        self.ranks_before: tuple[int, ...] = self.ranks(benign)

    def ranks(self, point: Vector) -> tuple[int, ...]:
        """Ranks of the items that the attack is about, with the image at `point` (D,)."""
        return tuple(int(ranks_at(view, point)[row]) for view in self.views for row in view.tracked)

    def overlap(self, point: Vector) -> float:
        """Mean share of the heads that stay, with the image at `point` (D,)."""
        return float(np.mean([movement_between(v, self.benign, point, self._k).overlap for v in self.views]))

    @torch.no_grad()
    def measure(self, point: Vector) -> RankingOutcome:
        """Measure the rankings with the image at `point` (D,)."""
        gallery = self.served.embedded.tensors
        moved = torch.from_numpy(point).to(gallery.embeddings.device)[None]
        values = self.attack.measure(moved, self._victims, gallery, self._rows)[0].tolist()
        return RankingOutcome(
            movements=tuple(movement_between(view, self.benign, point, self._k) for view in self.views),
            ranks_before=self.ranks_before,
            ranks_after=self.ranks(point),
            shift=embedding_shift(self.benign, point),
            figures={f.key: float(v) for f, v in zip(self.attack.figures, values, strict=True)},
        )
