"""Rank-biased overlap of two rankings (Webber, Moffat and Zobel 2010, ACM TOIS 28(4)); pure.

At each depth d the agreement A_d is the share that the two prefixes have in common; the overlap is their mean,
(1 − p) Σ p^(d−1) A_d, so that the head of the rankings counts most. With p = 0.9 the first ten ranks hold 86 % of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError


class RankingError(HardrankError):
    """A ranking that is none, or a persistence outside (0,1)."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The head of a ranking. Raises `RankingError` for an id that occurs twice, or scores that rise or are NaN."""

    ids: tuple[str, ...]
    """Ids, the best first."""
    scores: tuple[float, ...]
    """Their scores, never rising; ids of the same score are tied."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.scores):
            raise RankingError(f"A ranking has {len(self.ids)} ids and {len(self.scores)} scores; give one to each.")
        if len(set(self.ids)) < len(self.ids):
            raise RankingError("An id occurs twice in a ranking; give each once.")
        if any(not before >= after for before, after in zip(self.scores, self.scores[1:], strict=False)):
            raise RankingError("The scores of a ranking rise or are not numbers; give the best first.")

    @classmethod
    def untied(cls, ids: Sequence[str]) -> Self:
        """Make a ranking of `ids`, the best first, without ties."""
        return cls(ids=tuple(ids), scores=tuple(-float(rank) for rank in range(len(ids))))

    def __len__(self) -> int:
        return len(self.ids)

    def ranks(self) -> npt.NDArray[np.int64]:
        """Give each id's rank (n,), counted from 1; tied ids all have the rank of the first of them (section 4.4)."""
        ranks = np.arange(1, len(self) + 1)
        for place in range(1, len(self)):
            if self.scores[place] == self.scores[place - 1]:
                ranks[place] = ranks[place - 1]
        return ranks


def rank_biased_overlap(first: Ranking, second: Ranking, *, persistence: float) -> float:
    """Extrapolated rank-biased overlap RBO_ext of two top-k lists, in [0,1]: 1 the same order, 0 nothing shared.

    Lists may be of uneven length s < l: the unseen part of the shorter is taken to agree as it did at its end
    (equation 32), and both beyond l as at l. Tied ids share a rank, and A_d = 2 X_d / (|S_d| + |L_d|) with the sizes of
    the prefixes, which a tie makes longer than d (section 4.4). A list without an id overlaps with nothing.
    `persistence` is p in (0,1), the chance that a reader goes on to the next rank; raises `RankingError` otherwise.
    """
    if not 0 < persistence < 1:
        raise RankingError(f"The persistence is {persistence}; give a number between 0 and 1, both excluded.")
    short, long = sorted((first, second), key=len)
    if not len(short):
        return 0.0
    agreement = _agreement(short, long)
    depths = np.arange(1, len(long) + 1)
    weights = (1 - persistence) * persistence ** (depths - 1)
    return min(1.0, float(weights @ agreement + agreement[-1] * persistence ** len(long)))


def _agreement(short: Ranking, long: Ranking) -> npt.NDArray[np.float64]:
    """A_d at the depths 1 … l, extrapolated beyond the end s of the shorter list."""
    s, depths = len(short), np.arange(1, len(long) + 1)
    ranks_short, ranks_long = short.ranks(), long.ranks()
    place = dict(zip(short.ids, ranks_short, strict=True))
    # A shared id enters the intersection of the prefixes at the later of its two ranks.
    entered = [max(place[id_], rank) for id_, rank in zip(long.ids, ranks_long, strict=True) if id_ in place]
    shared = np.searchsorted(np.sort(np.array(entered, dtype=np.int64)), depths, side="right").astype(np.float64)
    in_short = np.maximum(np.searchsorted(ranks_short, depths, side="right"), depths)
    in_long = np.searchsorted(ranks_long, depths, side="right")
    at_end = 2 * shared[s - 1] / (in_short[s - 1] + in_long[s - 1])
    unseen = np.maximum(depths - s, 0)
    agreement: npt.NDArray[np.float64] = 2 * (shared + at_end * unseen) / (in_short + in_long)
    return agreement
