"""TMA, targeted mismatch: a query takes the embedding of another image."""

from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims, draw_uniform
from hardrank.trainer.attacks.declaration import AttackKind, TargetChoice
from hardrank.trainer.attacks.options import CheckedOptions


@dataclass(frozen=True)
class _MismatchObjective:
    """1 − cos(q̃, t)."""

    targets: Tensor
    """(G,D), on the unit sphere."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        return 1 - (embeddings[:, 0] * self.targets[rows]).sum(1)


@dataclass(frozen=True, kw_only=True)
class TargetedMismatch(CheckedOptions):
    """TMA (Tolias et al., *Targeted mismatch adversarial attack*, ICCV 2019)."""

    name: ClassVar[str] = "TMA"
    role: ClassVar[AttackedRole] = AttackedRole.QUERY
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(key="TMA", unit="", help="mean cosine of query and target", attacked=1.0, resisted=0.0),
    )
    target_count: ClassVar[int] = 1
    """One target."""
    width: ClassVar[int] = 0
    """The gallery plays no part."""

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Uniform from the gallery."""
        return draw_uniform(victims, gallery, seed=seed, attack="TMA", count=1)

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _MismatchObjective:
        """See `_MismatchObjective`."""
        return _MismatchObjective(gallery.embeddings[targets[:, 0]])

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """cos(q̃, t) → (G,1)."""
        return (embeddings * gallery.embeddings[targets[:, 0]]).sum(1, keepdim=True)


KINDS: Final = (
    AttackKind(
        name="TMA",
        title="the query takes the embedding of another image",
        story="The image is changed so that the model takes it for {target}.",
        build=TargetedMismatch,
        targets=TargetChoice(noun="target"),
    ),
)
