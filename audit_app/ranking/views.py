"""Which rankings an attack changes, as functions of the one embedding that it moves.

Most attacks change a query: there is one ranking, of the gallery by the query's embedding. CA+ and CA- change a
candidate: there is a ranking for each chosen query, in which the candidate's score changes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.ranking.movement import RankingMovement, Ranks, rank_items, top_rows
from hardrank.trainer.attacks.attack import Attack, AttackedRole

Vector = npt.NDArray[np.float32]
"""(D,), of norm 1."""
Matrix = npt.NDArray[np.float32]
"""(N,D), rows of norm 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryView:
    """The ranking of the attacked query."""

    gallery: Matrix
    own: int | None
    """The query's row; None if it is not an item of the gallery."""
    tracked: tuple[int, ...]
    """Rows whose ranks measure the attack."""
    query: None = None
    """No row: the query is the attacked image."""

    @property
    def left_out(self) -> tuple[int, ...]:
        """The query's own copy."""
        return () if self.own is None else (self.own,)

    def scores(self, embedding: Vector) -> npt.NDArray[np.float32]:
        """Similarity of every item to the query (N,)."""
        return np.asarray(self.gallery @ embedding, dtype=np.float32)


class CandidateView:
    """The ranking of another query that contains the attacked candidate."""

    def __init__(self, *, gallery: Matrix, query: int, own: int | None) -> None:
        self.query: int = query
        """Row of the query."""
        self._query_embedding = gallery[query]
        self._scores = np.asarray(gallery @ self._query_embedding, dtype=np.float32)
        self._row = len(gallery) if own is None else own
        if own is None:
            self._scores = np.append(self._scores, np.float32(0))
        self.tracked: tuple[int, ...] = (self._row,)
        """The candidate: its row, or N for an image from outside the gallery."""
        self.left_out: tuple[int, ...] = () if query == own else (query,)
        """The query's own copy, unless that is the attacked candidate."""

    def scores(self, embedding: Vector) -> npt.NDArray[np.float32]:
        """Similarity of every item to the query, with the candidate at `embedding` (N or N+1,)."""
        found = self._scores.copy()
        found[self._row] = self._query_embedding @ embedding
        return found


RankingView = QueryView | CandidateView
"""A ranking of the gallery's rows 0 to N−1 and, if it is not in the gallery, of the attacked image as row N."""


def views_of(
    attack: Attack, gallery: Matrix, *, own: int | None, targets: tuple[int, ...], benign: Vector
) -> list[RankingView]:
    """Return the rankings that an attack changes, at least one.

    Args:
        attack: The attack.
        gallery: (N,D).
        own: Row of the attacked image; None if it is not in the gallery.
        targets: Gallery rows that the attack aims at. Without targets, the first item of the benign ranking is tracked.
        benign: (D,), embedding of the benign image.

    Raises:
        RankingError: Nothing can be ranked.
    """
    if attack.role is AttackedRole.CANDIDATE:
        return [CandidateView(gallery=gallery, query=row, own=own) for row in dict.fromkeys(targets)]
    view = QueryView(gallery=gallery, own=own, tracked=tuple(dict.fromkeys(targets)))
    if not targets:
        first = top_rows(rank_items(view.scores(benign), left_out=view.left_out), 1)
        view = QueryView(gallery=gallery, own=own, tracked=(int(first[0]),))
    return [view]


def ranks_at(view: RankingView, embedding: Vector) -> Ranks:
    """Rank a view's items with the attacked image at `embedding` (D,)."""
    return rank_items(view.scores(embedding), left_out=view.left_out)


def movement_between(view: RankingView, before: Vector, after: Vector, k: int) -> RankingMovement:
    """Compare a view's rankings with the image at `before` and at `after`; `k` is limited to what is ranked."""
    one, other = ranks_at(view, before), ranks_at(view, after)
    return RankingMovement(one, other, min(k, int((one > 0).sum())))
