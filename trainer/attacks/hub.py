"""HUB: a candidate becomes a neighbor of as many queries as possible; planted in a gallery, it poisons it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardrank.trainer.attacks.attack import AttackedRole, Figure, Gallery, Victims, draw_each
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.options import AttackError, CheckedOptions, option


class HubLoss(StrEnum):
    """What the attack minimizes."""

    MARGIN = "margin"
    """How many of the queries the candidate is no neighbor of, smoothed."""
    SIMILARITY = "similarity"
    """1 − the mean cosine of candidate and queries."""


@dataclass(frozen=True)
class _MarginObjective:
    """Mean over q of sigmoid((d(q,c̃) − δ_q) / T), where δ_q is the distance of q to its k-th neighbor."""

    gallery: Gallery
    queries: Tensor
    """(G,w)."""
    needed: Tensor
    """(G,w): δ_q."""
    temperature: float

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        d = self.gallery.distances(embeddings[:, 0]).gather(1, self.queries[rows])
        return torch.sigmoid((d - self.needed[rows]) / self.temperature).mean(1)


@dataclass(frozen=True)
class _SimilarityObjective:
    """1 − the mean over q of cos(q, c̃)."""

    mean: Tensor
    """(G,D): the mean of the queries."""

    def __call__(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (G,1,D) → (G,)."""
        return 1 - (embeddings[:, 0] * self.mean[rows]).sum(1)


@dataclass(frozen=True, kw_only=True)
class HubAttack(CheckedOptions):
    """HUB: gallery poisoning, measured on other queries than those that the attack aims at."""

    name: ClassVar[str] = "HUB"
    role: ClassVar[AttackedRole] = AttackedRole.CANDIDATE
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            key="HUB",
            unit="%",
            help="share of other queries that have the candidate among their nearest items",
            attacked=100.0,
            resisted=0.0,
        ),
    )
    k: int = option(10, minimum=1, unit="items", help="a query's neighbors are its k nearest items")
    queries: int = option(
        200,
        minimum=1,
        unit="queries",
        help="number of queries that the attack aims at, drawn from the gallery; at most half of it, the rest judges",
    )
    loss: HubLoss = option(  # noqa: RUF009
        HubLoss.MARGIN, help="the number of queries without the candidate, smoothed, or the mean cosine"
    )
    temperature: float = option(
        0.05, minimum=1e-4, maximum=2, unit="of distance", help="T, the width of the smoothing of the margin"
    )

    @property
    def target_count(self) -> int:
        """The queries that it aims at."""
        return self.queries

    @property
    def width(self) -> int:
        """Distances, and which neighbors are the candidate itself."""
        return 3 + self.k

    def draw(self, victims: Victims, gallery: Gallery, *, seed: int) -> Tensor:
        """Draw queries without replacement, the candidate left out; repeated if half of the gallery is fewer."""
        size = len(gallery)
        if size < self.k + 3:
            raise AttackError(f"HUB: {self.k} neighbors were requested in a gallery of {size} items; lower k")
        count = min(self.queries, (size - 1) // 2)

        def choose(rng: np.random.Generator) -> NDArray[np.int64]:
            return rng.permutation(size)[: count + 1]

        places = draw_each(victims, seed=seed, attack=self.name, choose=choose)
        kept = places != victims.own[:, None]
        kept[:, -1] &= kept[:, :-1].all(1).logical_not()
        drawn = places[kept].view(len(victims), count)
        return drawn[:, torch.arange(self.queries, device=drawn.device) % count]

    def objective(self, victims: Victims, gallery: Gallery, targets: Tensor) -> _MarginObjective | _SimilarityObjective:
        """See `_MarginObjective` and `_SimilarityObjective`."""
        if self.loss is HubLoss.SIMILARITY:
            return _SimilarityObjective(gallery.embeddings[targets].mean(1))
        needed = self._needed(victims, gallery).gather(1, targets)
        return _MarginObjective(gallery, targets, needed, self.temperature)

    def measure(self, embeddings: Tensor, victims: Victims, gallery: Gallery, targets: Tensor) -> Tensor:
        """Share of the items not aimed at that have the candidate among their k nearest, in % → (G,1)."""
        found = gallery.distances(embeddings) < self._needed(victims, gallery)
        judging = torch.ones_like(found).scatter_(1, targets, False)
        present = victims.own.ge(0).nonzero().squeeze(1)
        judging[present, victims.own[present]] = False
        hits, judges = ((found & judging).sum(1, keepdim=True), judging.sum(1, keepdim=True))
        shares: Tensor = hits.to(embeddings.dtype) / judges
        return 100.0 * shares

    def _needed(self, victims: Victims, gallery: Gallery) -> Tensor:
        """Return the distance (G,N) that makes an item the k-th neighbor of each, the candidate's own copy left out."""
        distances, rows = gallery.neighbors(self.k + 1)
        own = (rows[None, :, : self.k] == victims.own[:, None, None]).any(2)
        return torch.where(own, distances[:, self.k], distances[:, self.k - 1])


KINDS: Final = (
    AttackKind(
        name="HUB",
        title="an image becomes a neighbor of as many queries as possible",
        story="The image is changed so that as many queries as possible have it among their first answers.",
        build=HubAttack,
        offered=False,
    ),
)
