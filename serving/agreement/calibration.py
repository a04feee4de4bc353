"""A hint whether an image was made to fool one of two models.

An adversarial image is made against one model: it moves that model's ranking, while the ranking of a model trained
otherwise moves less. So the two rankings of the same query disagree more than usual. What is usual the gallery itself
tells: a seeded sample of its own items, each ranked by both models with itself left out.

It is a hint, not a detector. An image unlike anything in the gallery makes the models disagree as well, and an image
made against both at once need not.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.serving.agreement.rbo import Ranking, rank_biased_overlap

FEWEST_ITEMS: Final = 20
"""Below so many shared items nothing can be said of what is usual."""

_CHUNK: Final = 256
"""Queries searched at once while calibrating."""

_NEARLY_ALL: Final = 0.9
"""Shares above it are told with a decimal."""

_PAGE: Final = 10_000
"""Ids read at once."""


class SuspicionError(HardrankError):
    """Galleries or options from which nothing can be said of what is usual."""


class Level(StrEnum):
    """How far the models disagree, against the gallery's own items."""

    USUAL = "usual"
    UNUSUAL = "unusual"
    SUSPICIOUS = "suspicious"


class HasId(Protocol):
    """An indexed item, as far as it matters here."""

    @property
    def id(self) -> str:
        """The handle by which both indexes know it."""


class Ranked(Protocol):
    """One place of an answer; `hardrank.serving.store.items.Match` is one."""

    @property
    def item(self) -> HasId:
        """What was found."""

    @property
    def score(self) -> float:
        """Its cosine similarity, in [−1,1]."""


class Searchable(Protocol):
    """What is asked of an index; `hardrank.serving.index.search_index.SearchIndex` is one."""

    def ids(self, *, start: int = 0, count: int = 100, label: str | None = None) -> list[str]:
        """Give `count` ids from place `start` on."""

    def rows(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Give id → row of those ids that are indexed."""

    def vector(self, id: str) -> npt.NDArray[np.float32]:
        """Give the stored vector (D,); raises a `HardrankError` for an unknown id."""

    def search(
        self, queries: npt.NDArray[np.float32], k: int, *, exclude: Sequence[str | None] = ()
    ) -> Sequence[Sequence[Ranked]]:
        """Give the `k` best of each of `queries` (Q,D), each without the id that `exclude` names for it."""


@dataclass(frozen=True, kw_only=True)
class SuspicionOptions:
    """How rankings are compared. Raises `SuspicionError` for values out of range."""

    persistence: float = 0.9
    """p of rank-biased overlap, in (0,1): the greater, the deeper ranks count."""
    depth: int = 50
    """Ranks compared, at least 1; fewer where the gallery is smaller."""
    sample: int = 500
    """Items of the gallery that tell what is usual, at least 20."""
    seed: int = 0
    """Decides which."""
    unusual: float = 0.05
    """False-alarm rate of `Level.UNUSUAL` and worse: the share of unsuspicious images, drawn as the gallery was, that
    get it."""
    suspicious: float = 0.01
    """False-alarm rate of `Level.SUSPICIOUS`; it needs a sample of at least 1 / rate − 1 items to be ever reached."""

    def __post_init__(self) -> None:
        if not 0 < self.persistence < 1:
            raise SuspicionError(f"persistence is {self.persistence}; give a number between 0 and 1, both excluded.")
        if self.depth < 1:
            raise SuspicionError(f"depth is {self.depth}; give at least 1.")
        if self.sample < FEWEST_ITEMS:
            raise SuspicionError(f"sample is {self.sample}; give at least {FEWEST_ITEMS}.")
        if not 0 < self.suspicious <= self.unusual < 1:
            raise SuspicionError(
                f"The false-alarm rates are {self.unusual} (unusual) and {self.suspicious} (suspicious); "
                "give 0 < suspicious ≤ unusual < 1."
            )


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """The hint for one query."""

    rbo: float
    """Rank-biased overlap of the two rankings, in [0,1]; small: they disagree."""
    percentile: float
    """In (0,100]: the share of images drawn as the gallery was, whose overlap is as small or smaller."""
    level: Level
    """By the percentile, against the false-alarm rates of the options."""
    text: str
    """All of it in one sentence, for people."""

    def to_dict(self) -> dict[str, Any]:
        """Give the fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What overlap is usual in one gallery for one pair of models; `calibrate` makes it."""

    overlaps: npt.NDArray[np.float64] = field(repr=False)
    """The overlap of each sampled item's two rankings (n,), rising."""
    depth: int
    """Ranks that were compared; queries must be compared to the same depth."""
    options: SuspicionOptions
    """How it was made."""

    def judge(self, rbo: float) -> Suspicion:
        """Set a query's overlap against the usual ones.

        With n sampled items of which m overlap as little or less, the percentile is 100 (m + 1) / (n + 1). For a query
        drawn as they were, each of its n + 1 places among them is equally likely, so that a level with false-alarm
        rate α is given to at most the share α, whatever the distribution and however small n.
        """
        as_little = int(np.searchsorted(self.overlaps, rbo, side="right"))
        share = (as_little + 1) / (len(self.overlaps) + 1)
        level = self._level(share)
        count = len(self.overlaps)
        text = _SENTENCES[level].format(rbo=rbo, less=_share(count - as_little, count), more=_share(as_little, count))
        return Suspicion(rbo=rbo, percentile=100 * share, level=level, text=text)

    def _level(self, share: float) -> Level:
        thresholds = ((self.options.suspicious, Level.SUSPICIOUS), (self.options.unusual, Level.UNUSUAL))
        return next((level for rate, level in thresholds if share <= rate), Level.USUAL)


_SENTENCES: Final[Mapping[Level, str]] = {
    Level.USUAL: (
        "Nothing unusual: the two models agree on this image about as they do on the gallery’s own "
        "(overlap {rbo:.2f}, more than for {more} of them)."
    ),
    Level.UNUSUAL: (
        "Unusual: the two models agree on this image less than on {less} of the gallery’s own "
        "(overlap {rbo:.2f}); it may be unlike anything here, or altered to mislead one of them."
    ),
    Level.SUSPICIOUS: (
        "Suspicious: the two models agree on this image less than on {less} of the gallery’s own "
        "(overlap {rbo:.2f}), as they do on images altered to mislead one of them; an image unlike "
        "anything here can look the same."
    ),
}


def _share(count: int, total: int) -> str:
    """A share of the sample in words; all of it only where it is all of it."""
    if count == total:
        return "all"
    return f"{100 * count / total:.1f}%" if count / total > _NEARLY_ALL else f"{count / total:.0%}"


def calibrate(first: Searchable, second: Searchable, *, options: SuspicionOptions | None = None) -> Calibration:
    """Measure the overlap of both indexes' rankings for a seeded sample of the items that both hold.

    Deterministic for the same galleries and options. Raises `SuspicionError` where fewer than 20 items are shared.
    """
    chosen_options = options or SuspicionOptions()
    shared = _shared_ids(first, second)
    if len(shared) < FEWEST_ITEMS:
        raise SuspicionError(
            f"The two indexes share {len(shared)} items; {FEWEST_ITEMS} are needed to tell what is usual. "
            "Build both from the same images."
        )
    draws = np.random.default_rng(chosen_options.seed).permutation(len(shared))[: chosen_options.sample]
    ids = [shared[draw] for draw in draws]
    depth = min(chosen_options.depth, len(shared) - 1)
    overlaps = np.sort(
        [
            overlap(of_first, of_second, first, second, persistence=chosen_options.persistence)
            for start in range(0, len(ids), _CHUNK)
            for of_first, of_second in zip(
                _rankings(first, ids[start : start + _CHUNK], depth),
                _rankings(second, ids[start : start + _CHUNK], depth),
                strict=True,
            )
        ]
    )
    return Calibration(overlaps=overlaps, depth=depth, options=chosen_options)


def overlap(
    of_first: Sequence[Ranked],
    of_second: Sequence[Ranked],
    first: Searchable,
    second: Searchable,
    *,
    persistence: float,
) -> float:
    """Give the rank-biased overlap of two answers to one query, in [0,1], over the ids that both indexes hold.

    The answers must be unfiltered and as deep as the calibration: a filter by label would rank another gallery.
    """
    ids_first, ids_second = ({match.item.id for match in matches} for matches in (of_first, of_second))
    # What both ranked, both hold; only the others need to be looked up.
    only_first = _absent(second, ids_first - ids_second)
    only_second = _absent(first, ids_second - ids_first)
    return rank_biased_overlap(
        _ranking(of_first, leave_out=only_first), _ranking(of_second, leave_out=only_second), persistence=persistence
    )


def _ranking(matches: Sequence[Ranked], *, leave_out: Set[str]) -> Ranking:
    kept = [match for match in matches if match.item.id not in leave_out]
    return Ranking(ids=tuple(match.item.id for match in kept), scores=tuple(match.score for match in kept))


def _rankings(index: Searchable, ids: Sequence[str], depth: int) -> Sequence[Sequence[Ranked]]:
    """Rank the index for each of its own items, itself left out."""
    return index.search(np.stack([index.vector(id_) for id_ in ids]), depth, exclude=ids)


def _shared_ids(first: Searchable, second: Searchable) -> list[str]:
    return sorted(_all_ids(first) & _all_ids(second))


def _all_ids(index: Searchable) -> set[str]:
    ids: set[str] = set()
    while page := index.ids(start=len(ids), count=_PAGE):
        ids.update(page)
    return ids


def _absent(index: Searchable, ids: Set[str]) -> Set[str]:
    return ids - index.rows(sorted(ids)).keys() if ids else ids
