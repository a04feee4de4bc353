"""Which ranking an attack moves, as a function of the one embedding that it changes; numpy alone.

Most attacks change a query: there is one ranking, of the gallery by the query's embedding. CA+ and CA- change a
candidate: there is a ranking of each chosen query, in which the candidate's own score moves.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.ranking.movement import RankingMovement, Ranks, head, rank_items
from hardrank.trainer.attacks.attack import Attack, Role

Vector = npt.NDArray[np.float32]
"""(D,), of norm 1."""
Matrix = npt.NDArray[np.float32]
"""(N,D), rows of norm 1."""


class RankingView(Protocol):
    """A ranking of the gallery's rows 0 … N−1, and perhaps of the attacked image itself as row N."""

    @property
    def left_out(self) -> tuple[int, ...]:
        """Rows that are not ranked: the query's own copy."""

    @property
    def tracked(self) -> tuple[int, ...]:
        """Rows that the attack is about."""

    @property
    def query(self) -> int | None:
        """The gallery row whose ranking it is; None: that of the attacked image."""

    def scores(self, point: Vector) -> npt.NDArray[np.float32]:
        """Cosine similarities (N or N+1,) with the attacked image at `point` (D,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryView:
    """The ranking of the attacked query."""

    gallery: Matrix
    own: int | None
    """The query's row; None: it is no item of the gallery."""
    tracked: tuple[int, ...]
    query: None = None

    @property
    def left_out(self) -> tuple[int, ...]:
        """The query's own copy."""
        return () if self.own is None else (self.own,)

    def scores(self, point: Vector) -> npt.NDArray[np.float32]:
        """Similarity of every item to the query (N,)."""
        return np.asarray(self.gallery @ point, dtype=np.float32)


class CandidateView:
    """The ranking of another query, in which the attacked candidate takes part."""

    def __init__(self, *, gallery: Matrix, query: int, own: int | None) -> None:
        self.query: int = query
        """Row of the query."""
        self._point = gallery[query]
        self._scores = np.asarray(gallery @ self._point, dtype=np.float32)
        self._place = len(gallery) if own is None else own
        if own is None:
            self._scores = np.append(self._scores, np.float32(0))
        self.tracked: tuple[int, ...] = (self._place,)
        """The candidate: its row, or N for an image from outside the gallery."""
        self.left_out: tuple[int, ...] = () if query == own else (query,)
        """The query's own copy, unless it is the attacked candidate."""

    def scores(self, point: Vector) -> npt.NDArray[np.float32]:
        """Similarity of every item to the query, the candidate's from `point` (N or N+1,)."""
        found = self._scores.copy()
        found[self._place] = self._point @ point
        return found


def views_of(
    attack: Attack, gallery: Matrix, *, own: int | None, targets: tuple[int, ...], benign: Vector
) -> list[RankingView]:
    """Give the rankings that `attack` moves, one or more.

    `targets` are gallery rows as the attack drew them; an attack without targets is watched by the former first item
    of the ranking of `benign` (D,). Raises `RankingError` where nothing can be ranked.
    """
    if attack.role is Role.CANDIDATE:
        return [CandidateView(gallery=gallery, query=row, own=own) for row in dict.fromkeys(targets)]
    view = QueryView(gallery=gallery, own=own, tracked=tuple(dict.fromkeys(targets)))
    if not targets:
        first = head(rank_items(view.scores(benign), left_out=view.left_out), 1)
        view = QueryView(gallery=gallery, own=own, tracked=(int(first[0]),))
    return [view]


def ranks_at(view: RankingView, point: Vector) -> Ranks:
    """Rank a view's items with the attacked image at `point` (D,)."""
    return rank_items(view.scores(point), left_out=view.left_out)


def movement_between(view: RankingView, before: Vector, after: Vector, k: int) -> RankingMovement:
    """Compare a view's rankings with the image at `before` and at `after`; `k` is cut to what is ranked."""
    one, other = ranks_at(view, before), ranks_at(view, after)
    return RankingMovement(one, other, min(k, int((one > 0).sum())))
