"""Rank-biased overlap of two rankings (Webber, Moffat and Zobel 2010, ACM TOIS 28(4)).

The agreement A_d at depth d is the share of items that the two prefixes of length d have in common. The overlap is the
weighted mean (1 − p) Σ p^(d−1) A_d, so the top of the rankings counts most: with p = 0.9 the first ten ranks have 86 %
of the weight.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError


class RboError(HardrankError):
    """A ranking is invalid, or the persistence is outside (0,1)."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The top of a ranking. Raises `RboError` for duplicate ids, and for scores that increase or are NaN."""

    ids: tuple[str, ...]
    """Best first."""
    scores: tuple[float, ...]
    """Non-increasing; ids with the same score are tied."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.scores):
            raise RboError(
                f"the ranking has {len(self.ids)} ids but {len(self.scores)} scores; one score per id is needed"
            )
        if len(set(self.ids)) < len(self.ids):
            raise RboError("the ranking has a duplicate id; name each id once")
        if any(not before >= after for before, after in zip(self.scores, self.scores[1:], strict=False)):
            raise RboError("the scores of the ranking increase or are NaN; put the best first")

    def __len__(self) -> int:
        return len(self.ids)

    def ranks(self) -> npt.NDArray[np.int64]:
        """Return the rank of each id (n,), from 1; tied ids share the rank of the first of them (section 4.4)."""
        ranks = np.arange(1, len(self) + 1)
        for place in range(1, len(self)):
            if self.scores[place] == self.scores[place - 1]:
                ranks[place] = ranks[place - 1]
        return ranks


def rank_biased_overlap(first: Ranking, second: Ranking, *, persistence: float) -> float:
    """Return the extrapolated rank-biased overlap RBO_ext of two top-k lists, in [0,1].

    1 means the same order, 0 no item in common. The lists may have different lengths s < l: the unseen part of the
    shorter is assumed to agree as at its end (equation 32), and both beyond l as at l. Tied ids share a rank, and
    A_d = 2 X_d / (|S_d| + |L_d|) uses the sizes of the prefixes, which ties make longer than d (section 4.4). An empty
    list has overlap 0 with every list.

    Args:
        first: One ranking.
        second: The other; the overlap is symmetric.
        persistence: p in (0,1), the probability that a reader continues to the next rank.

    Raises:
        RboError: `persistence` is outside (0,1).
    """
    if not 0 < persistence < 1:
        raise RboError(f"persistence is {persistence}; use a number between 0 and 1, both excluded")
    short, long = sorted((first, second), key=len)
    if not len(short):
        return 0.0
    agreement = _agreement(short, long)
    depths = np.arange(1, len(long) + 1)
    weights = (1 - persistence) * persistence ** (depths - 1)
    return min(1.0, float(weights @ agreement + agreement[-1] * persistence ** len(long)))


def _agreement(short: Ranking, long: Ranking) -> npt.NDArray[np.float64]:
    """A_d for the depths 1 … l, extrapolated beyond the end s of the shorter list."""
    s, depths = len(short), np.arange(1, len(long) + 1)
    ranks_short, ranks_long = short.ranks(), long.ranks()
    rank_in_short = dict(zip(short.ids, ranks_short, strict=True))
    # A shared id enters the intersection of the prefixes at the larger of its two ranks.
    entered = [
        max(rank_in_short[id_], rank) for id_, rank in zip(long.ids, ranks_long, strict=True) if id_ in rank_in_short
    ]
    shared = np.searchsorted(np.sort(np.array(entered, dtype=np.int64)), depths, side="right").astype(np.float64)
    in_short = np.maximum(np.searchsorted(ranks_short, depths, side="right"), depths)
    in_long = np.searchsorted(ranks_long, depths, side="right")
    at_end = 2 * shared[s - 1] / (in_short[s - 1] + in_long[s - 1])
    unseen = np.maximum(depths - s, 0)
    agreement: npt.NDArray[np.float64] = 2 * (shared + at_end * unseen) / (in_short + in_long)
    return agreement
