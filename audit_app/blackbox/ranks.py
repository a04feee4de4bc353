"""Search by ranks alone: the attacker sees the first k ids of a list, and neither scores nor embeddings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor

from hardrank.audit_app.blackbox.method import CHUNK, ELEMENTS, Search, SearchState, SearchTask
from hardrank.audit_app.blackbox.oracle import Oracle
from hardrank.audit_app.blackbox.rank_goal import PreparedGoal, RankGoal, prepare_goal
from hardrank.audit_app.blackbox.signs import sign_steps
from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack, Gallery, Victims
from hardrank.trainer.attacks.options import AttackError, option
from hardrank.trainer.attacks.pgd import Norm

RESOLUTION: Final = 16
EXPLORED: Final = 100
_FEWEST: Final = 8


@dataclass(frozen=True, kw_only=True)
class RankSearch(Search):
    """Flips signs of pixels as a linear model of the relative ranks of the visible list recommends."""

    NAME: ClassVar[str] = "ranks"

    visible: int = option(
        0, minimum=0, unit="ids", help="k, how many ids of a list the attacker sees; 0: the whole gallery"
    )
    explored: int = option(
        EXPLORED,
        minimum=0,
        unit="lists",
        help="lists of gallery images read first if only k ids are visible; each costs a query",
    )
    resolution: int = option(
        RESOLUTION,
        minimum=1,
        maximum=1024,
        unit="frequencies a side",
        help="detail of the slopes that the search learns",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < _FEWEST:
            raise AttackError(f"ranks: {self.queries} queries are too few; give {_FEWEST} or more")

    @property
    def least_queries(self) -> int:
        """Some queries of the image, after those of lists."""
        return _FEWEST

    def oracle(self, attack: Attack, embed: Embed, victims: Victims, gallery: Gallery, targets: Tensor) -> Oracle:
        """Return an oracle whose losses depend on visible lists alone."""
        lists = _GalleryLists(gallery, victims, self.visible)
        explored = explored_within(self.queries, self.explored)
        return _ListOracle(embed, lists, lambda: prepare_goal(attack.name, targets, lists, explored=explored))

    def steps(self, task: SearchTask) -> Iterator[SearchState]:
        """See `sign_steps`. Raises `AttackError` for norms other than L∞."""
        if task.budget.norm is not Norm.LINF:
            raise AttackError("the search by ranks needs an L∞ budget; choose the norm linf, or the search nes or spsa")
        assert isinstance(task.oracle, _ListOracle)
        task.oracle.prepare()
        yield from sign_steps(
            task.oracle.query,
            task.images,
            epsilon=task.budget.epsilon,
            ids=task.ids,
            queries=self.queries - task.oracle.queries,
            resolution=self.resolution,
            seed=task.seed,
        )


def explored_within(queries: int, explored: int) -> int:
    """Return how many lists may be read first, so that at least half of `queries` are left for the search."""
    return min(explored, max(0, queries // 2 - 2))


@dataclass(frozen=True)
class _GalleryLists:
    """Visible lists of a gallery that is at hand."""

    gallery: Gallery
    victims: Victims
    limit: int
    """k; 0: the whole gallery."""

    @property
    def size(self) -> int:
        return len(self.gallery)

    @property
    def visible(self) -> int:
        return min(self.limit or self.size, self.size)

    def of(self, embeddings: Tensor) -> Tensor:
        """Return the lists (n,k) of queries with these embeddings (n,D), the nearest item first."""
        return self.gallery.distances(embeddings).topk(self.visible, largest=False).indices

    def benign(self) -> Tensor:
        return self.of(self.victims.embeddings)

    def lists_of(self, items: Tensor) -> Tensor:
        return self.of(self.gallery.embeddings[items])


class _ListOracle(Oracle):
    """Answers with the losses of visible lists."""

    def __init__(self, embed: Embed, lists: _GalleryLists, goal: Callable[[], PreparedGoal]) -> None:
        super().__init__(
            embed,
            self._losses,
            images=len(lists.victims),
            chunk=min(CHUNK, ELEMENTS // lists.size),
            device=lists.victims.own.device,
        )
        self._lists = lists
        self._make_goal = goal

    def prepare(self) -> None:
        """Read the lists that the goal needs, and count them."""
        prepared = self._make_goal()
        self._goal: RankGoal = prepared.goal
        self.queries += prepared.spent

    def _losses(self, embeddings: Tensor, rows: Tensor, step: int) -> Tensor:
        """Embeddings (n,1,D) → (n,)."""
        return self._goal.losses(self._lists.of(embeddings[:, 0]), rows)
