"""CA+ and CA−: a candidate is changed so that it rises or falls in the rankings of w queries."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims, draw_from_top, draw_uniform
from hardrank.trainer.attacks.declaration import AttackKind, TargetChoice
from hardrank.trainer.attacks.direction import Direction
from hardrank.trainer.attacks.options import CheckedOptions, option


@dataclass(frozen=True)
class _CandidateObjective:
    """Mean over q and x of max(0, ±(d(q,c̃) − d(q,x))), by sorted d(q,x) and their sums: only d(q,c̃) moves."""

    queries: Tensor
    """(G,w,D)."""
    others: Tensor
    """(G,w,N): d(q,x) in ascending order."""
    sums: Tensor
    """(G,w,N+1) float64: sums of the first k of `others`."""
    direction: Direction

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        d = torch.linalg.vector_norm(self.queries[rows] - embeddings, dim=2)
        others, sums = self.others[rows], self.sums[rows]
        size = others.shape[2]
        nearer = torch.searchsorted(others, d.detach()[..., None])
        below, nearer = sums.gather(2, nearer).squeeze(2), nearer.squeeze(2)
        hinge = nearer * d.double() - below
        if self.direction is Direction.LOWER:
            hinge = hinge + sums[..., -1] - size * d.double()
        mean: Tensor = hinge.mean(1).to(d.dtype) / size
        return mean


@dataclass(frozen=True, kw_only=True)
class CandidateAttack(CheckedOptions):
    """CA+ and CA− (Zhou et al., *Adversarial ranking attack and defense*, ECCV 2020)."""

    role: ClassVar[AttackedRole] = AttackedRole.CANDIDATE
    direction: Direction = Direction.RAISE
    """Towards the top of the rankings, or their end."""
    w: int = option(1, minimum=1, unit="queries", help="how many queries' rankings the candidate moves in")
    share: float = option(
        0.01, minimum=0, maximum=1, help="CA−: queries come from this share of the gallery, nearest first"
    )

    @property
    def name(self) -> str:
        """`CA+` or `CA-`."""
        return f"CA{self.direction}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The candidate's rank."""
        return (
            self.direction.figure(
                self.name, "share of the gallery nearer to the query than the candidate; 50 at random"
            ),
        )

    @property
    def target_count(self) -> int:
        """w queries."""
        return self.w

    @property
    def width(self) -> int:
        """Distances of w queries, and in float64 their sums."""
        return 4 * self.w

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """CA+: uniform from the gallery; CA−: uniform from the top share."""
        if self.direction is Direction.RAISE:
            return draw_uniform(victims, gallery, seed=seed, attack=self.name, count=self.w)
        return draw_from_top(
            victims, gallery, seed=seed, attack=self.name, count=self.w, share=self.share, replace=True
        )

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _CandidateObjective:
        """See `_CandidateObjective`."""
        queries = gallery.embeddings[targets]
        # At the first step the candidate is as far from q as its own copy in the gallery: rounding decides
        # which is nearer, and only `cdist` from the gallery's side rounds as the reference implementation
        # does.
        others = torch.cdist(gallery.embeddings, queries.flatten(0, 1)).T.sort(dim=1).values.contiguous()
        sums = torch.nn.functional.pad(others.cumsum(1, dtype=torch.float64), (1, 0))
        return _CandidateObjective(
            queries, others.view(*targets.shape, -1), sums.view(*targets.shape, -1), self.direction
        )

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Mean over q of the fraction of x with d(q,x) < d(q,c̃), in % → (G,1)."""
        queries = gallery.embeddings[targets]
        d = torch.linalg.vector_norm(queries - embeddings[:, None], dim=2)
        others = gallery.distances(queries.flatten(0, 1)).view(*targets.shape, -1)
        ahead = (others < d[..., None]).sum(2).to(d.dtype)
        share: Tensor = ahead.mean(1, keepdim=True) / len(gallery)
        return 100.0 * share


_CHOSEN: Final = TargetChoice(noun="query", count_option="w")

KINDS: Final = (
    AttackKind(
        name="CA+",
        title="an image rises to the top of other queries' rankings",
        story="The image is changed so that it rises to the top of the answers to {target}.",
        build=CandidateAttack,
        targets=_CHOSEN,
        fixed={"direction": Direction.RAISE},
    ),
    AttackKind(
        name="CA-",
        title="an image falls to the end of other queries' rankings",
        story="The image is changed so that it falls to the end of the answers to {target}.",
        build=CandidateAttack,
        targets=_CHOSEN,
        fixed={"direction": Direction.LOWER},
    ),
)
