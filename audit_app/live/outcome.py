"""The effect of an image on the rankings of a served model: the measurement behind all figures of a live attack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.ranking.movement import RankingMovement, embedding_shift
from hardrank.audit_app.ranking.views import RankingView, Vector, movement_between, ranks_at, views_of
from hardrank.trainer.attacks.attack import Attack, Victims


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingOutcome:
    """The rankings with an image in place of the benign one."""

    movements: tuple[RankingMovement, ...]
    """Of each ranking that the attack changes; most attacks change one."""
    ranks_before: tuple[int, ...]
    """Ranks of the tracked items, over all rankings."""
    ranks_after: tuple[int, ...]
    shift: float
    """Distance that the image's embedding moved, 0 to 2."""
    figures: Mapping[str, float]
    """The attack's own results by name; its `figures` declare units and meaning."""

    @property
    def overlap(self) -> float:
        """Mean share of the first items that stayed, in [0,1]."""
        return float(np.mean([movement.overlap for movement in self.movements]))

    @property
    def kept(self) -> tuple[int, int]:
        """How many of the first items stayed, and of how many, over all rankings."""
        return _kept(self.movements)

    @property
    def mean_rank_before(self) -> float:
        """Mean of `ranks_before`."""
        return float(np.mean(self.ranks_before))

    @property
    def mean_rank_after(self) -> float:
        """Mean of `ranks_after`."""
        return float(np.mean(self.ranks_after))


def _kept(movements: Sequence[RankingMovement]) -> tuple[int, int]:
    of = sum(movement.k for movement in movements)
    return of - sum(len(movement.entered) for movement in movements), of


class RankingMeter:
    """Measures the rankings of an attack for any embedding of its image.

    Args:
        served: The model and gallery.
        attack: The attack.
        victims: The attacked image, a batch of one.
        targets: Gallery rows (1,T).
        benign: (D,), embedding of the benign image.
        own: Gallery row of the image; None if it is not in the gallery.
        k: How many of the first items are compared.
    """

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
        self.served = served
        self.attack = attack
        self.benign = benign
        self.targets: tuple[int, ...] = tuple(int(row) for row in targets[0])
        self.views: list[RankingView] = views_of(attack, served.matrix, own=own, targets=self.targets, benign=benign)
        self._victims = victims
        self._rows = targets
        self._k = k
        self.ranks_before: tuple[int, ...] = self.ranks(benign)

    def ranks(self, embedding: Vector) -> tuple[int, ...]:
        """Ranks of the tracked items, with the image at `embedding` (D,)."""
        return tuple(int(ranks_at(view, embedding)[row]) for view in self.views for row in view.tracked)

    def kept(self, embedding: Vector) -> tuple[int, int]:
        """How many of the first items stay with the image at `embedding` (D,), and of how many."""
        return _kept([movement_between(view, self.benign, embedding, self._k) for view in self.views])

    @torch.no_grad()
    def measure(self, embedding: Vector) -> RankingOutcome:
        """Measure the rankings with the image at `embedding` (D,)."""
        gallery = self.served.embedded.tensors
        moved = torch.from_numpy(embedding).to(gallery.embeddings.device)[None]
        values = self.attack.measure(moved, self._victims, gallery, self._rows)[0].tolist()
        return RankingOutcome(
            movements=tuple(movement_between(view, self.benign, embedding, self._k) for view in self.views),
            ranks_before=self.ranks_before,
            ranks_after=self.ranks(embedding),
            shift=embedding_shift(self.benign, embedding),
            figures={f.key: float(v) for f, v in zip(self.attack.figures, values, strict=True)},
        )
