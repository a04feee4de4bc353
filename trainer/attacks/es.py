"""ES, embedding shift: a query moves as far as possible from its own embedding."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import (
    ROUNDING,
    AttackedRole,
    Figure,
    Gallery,
    Victims,
    measure_recall,
    no_targets,
    recall_figure,
)
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.options import CheckedOptions
from hardrank.trainer.metric.losses import distance


@dataclass(frozen=True)
class _ShiftObjective:
    """−d(q̃, q). The 1e-6 that `distance` adds gives the first step, from q̃ = q, a direction."""

    benign: Tensor
    """(G,D)."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        points, benign = embeddings[:, 0], self.benign[rows]
        if step == 0:
            # In bf16 the image is embedded a rounding error away from its gallery row. Following that error would
            # begin elsewhere than exact arithmetic does, so the first step takes q as this network embeds it.
            here = points.detach()
            rounding = torch.linalg.vector_norm(here - benign, dim=1, keepdim=True) < ROUNDING
            benign = torch.where(rounding, here, benign)
        return -distance(points, benign)


@dataclass(frozen=True, kw_only=True)
class EmbeddingShift(CheckedOptions):
    """ES, with its two results ES:D and ES:R (Zhou et al., *Adversarial ranking attack and defense*, ECCV 2020)."""

    name: ClassVar[str] = "ES"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    target_count: ClassVar[int] = 0
    """None: the image alone."""
    width: ClassVar[int] = 1
    """The ranking is only measured."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The distance moved, and Recall@1."""
        shift = Figure(key="ES:D", unit="", help="distance from the benign embedding", attacked=2.0, resisted=0.0)
        return (shift, recall_figure("ES:R"))

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Nothing to draw: (G,0)."""
        return no_targets(victims)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _ShiftObjective:
        """See `_ShiftObjective`."""
        return _ShiftObjective(victims.embeddings)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """d(q̃, q) and Recall@1 in % → (G,2)."""
        shift = (embeddings - victims.embeddings).norm(dim=1, keepdim=True)
        return torch.cat([shift, measure_recall(embeddings, victims, gallery)], dim=1)


KINDS: Final = (
    AttackKind(
        name="ES",
        title="the query moves far from its own embedding",
        story="The image is changed so that its embedding moves as far as possible, and all of its answers change.",
        build=EmbeddingShift,
    ),
)
