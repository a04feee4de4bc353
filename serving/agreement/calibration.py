"""How much two models disagree about a query, compared with what is usual for the gallery.

An adversarial image is made against one model: it changes that model's ranking, while the ranking of a model trained
differently changes less. So the two rankings of the query disagree more than usual. The usual agreement is measured
on the gallery: a seeded sample of its items, each ranked by both models with itself left out.

A large disagreement is a hint, not a detection. An image unlike anything in the gallery makes the models disagree too,
and an image made against both models at once need not.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.serving.agreement.rbo import Ranking, rank_biased_overlap
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import Match

FEWEST_ITEMS: Final = 20
"""Shared items that a calibration needs."""
_CHUNK: Final = 256
"""Queries searched at once during calibration."""
_NEARLY_ALL: Final = 0.9
"""Larger shares are written with a decimal."""
_LITTLE: Final = 0.5
"""Median overlap below which two models agree little on all images."""


class CalibrationError(HardrankError):
    """The options are out of range, or the galleries share too few items."""


class DisagreementLevel(StrEnum):
    """How much the models disagree, compared with the gallery's own items."""

    USUAL = "usual"
    UNUSUAL = "unusual"
    SUSPICIOUS = "suspicious"


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How rankings are compared. Raises `CalibrationError` for values out of range."""

    persistence: float = 0.9
    """p of rank-biased overlap, in (0,1): a larger p gives deeper ranks more weight."""
    depth: int = 50
    """Ranks compared, at least 1; fewer if the gallery is smaller."""
    sample: int = 500
    """Items of the gallery to measure the usual agreement on, at least 20."""
    seed: int = 0
    """Seed of the sample."""
    unusual: float = 0.05
    """False-alarm rate of `DisagreementLevel.UNUSUAL` and above: the share of benign images from the gallery's own
    distribution that reach it."""
    suspicious: float = 0.01
    """False-alarm rate of `DisagreementLevel.SUSPICIOUS`, which needs a sample of at least 1 / rate − 1 items."""

    def __post_init__(self) -> None:
        if not 0 < self.persistence < 1:
            raise CalibrationError(f"persistence is {self.persistence}; use a number between 0 and 1, both excluded.")
        if self.depth < 1:
            raise CalibrationError(f"depth is {self.depth}; use at least 1.")
        if self.sample < FEWEST_ITEMS:
            raise CalibrationError(f"sample is {self.sample}; use at least {FEWEST_ITEMS}.")
        if not 0 < self.suspicious <= self.unusual < 1:
            raise CalibrationError(
                f"The false-alarm rates are {self.unusual} (unusual) and {self.suspicious} (suspicious); "
                "use 0 < suspicious ≤ unusual < 1."
            )


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How much two models disagree about one query."""

    rbo: float
    """Rank-biased overlap of the two rankings, in [0,1]; small values mean that they disagree."""
    percentile: float
    """In (0,100]: the share of images from the gallery's distribution whose overlap is at most this."""
    level: DisagreementLevel
    """From the percentile and the false-alarm rates of the options."""
    text: str
    """A sentence for people."""
    telling: bool = True
    """False if the overlap is usual, but so low that the two models agree little on any image."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name but `telling`, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "telling"}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The usual overlap of two models' rankings in one gallery; made by `calibrate`."""

    overlaps: npt.NDArray[np.float64] = field(repr=False)
    """Overlap of the two rankings of each sampled item, (n,), ascending."""
    depth: int
    """Ranks that were compared. Compare queries to the same depth."""
    options: CalibrationOptions
    """The options it was made with."""

    def rate(self, rbo: float) -> Disagreement:
        """Compare a query's overlap with the usual ones.

        If m of the n sampled items have an overlap of at most `rbo`, the percentile is 100 (m + 1) / (n + 1). For a
        query from the same distribution, each of the n + 1 positions among them is equally likely. So a level with
        false-alarm rate α is given to at most the share α of such queries, for any distribution and any n.
        """
        as_little = int(np.searchsorted(self.overlaps, rbo, side="right"))
        share = (as_little + 1) / (len(self.overlaps) + 1)
        level = self._level(share)
        count = len(self.overlaps)
        usual = round(float(np.median(self.overlaps)), 2)
        telling = level is not DisagreementLevel.USUAL or max(rbo, usual) >= _LITTLE
        text = (_SENTENCES[level] if telling else _UNTELLING).format(
            rbo=rbo, less=_share(count - as_little, count), more=_share(as_little, count), usual=usual
        )
        return Disagreement(rbo=rbo, percentile=100 * share, level=level, text=text, telling=telling)

    def _level(self, share: float) -> DisagreementLevel:
        thresholds = (
            (self.options.suspicious, DisagreementLevel.SUSPICIOUS),
            (self.options.unusual, DisagreementLevel.UNUSUAL),
        )
        return next((level for rate, level in thresholds if share <= rate), DisagreementLevel.USUAL)


_UNTELLING: Final = (
    "These two models agree little on any image (overlap {rbo:.2f} on this one, median {usual:.2f} on the gallery’s "
    "own images), so this check tells little."
)
_SENTENCES: Final[Mapping[DisagreementLevel, str]] = {
    DisagreementLevel.USUAL: (
        "Nothing unusual: the two models agree on this image about as much as on the gallery’s own images "
        "(overlap {rbo:.2f}, more than for {more} of them)."
    ),
    DisagreementLevel.UNUSUAL: (
        "Unusual: the two models agree on this image less than on {less} of the gallery’s own images "
        "(overlap {rbo:.2f}); it may be unlike anything in the gallery, or altered to mislead one of the models."
    ),
    DisagreementLevel.SUSPICIOUS: (
        "Suspicious: the two models agree on this image less than on {less} of the gallery’s own images "
        "(overlap {rbo:.2f}), as is typical of an image altered to mislead one of the models; an image unlike "
        "anything in the gallery can have the same effect."
    ),
}


def _share(count: int, total: int) -> str:
    """Write a share of the sample; "all" only if it is all of it."""
    if count == total:
        return "all"
    return f"{100 * count / total:.1f}%" if count / total > _NEARLY_ALL else f"{count / total:.0%}"


def calibrate(first: SearchIndex, second: SearchIndex, *, options: CalibrationOptions | None = None) -> Calibration:
    """Measure the usual overlap of two indexes' rankings, on a seeded sample of the items that are in both.

    Deterministic for the same galleries and options. Raises `CalibrationError` if fewer than 20 items are in both.
    """
    used = options or CalibrationOptions()
    shared = sorted({item.id for item in first.list_items()} & {item.id for item in second.list_items()})
    if len(shared) < FEWEST_ITEMS:
        raise CalibrationError(
            f"the two indexes share {len(shared)} items, and a calibration needs {FEWEST_ITEMS}; build both from the "
            "same images"
        )
    draws = np.random.default_rng(used.seed).permutation(len(shared))[: used.sample]
    ids = [shared[draw] for draw in draws]
    depth = min(used.depth, len(shared) - 1)
    overlaps = np.sort(
        [
            shared_overlap(of_first, of_second, first, second, persistence=used.persistence)
            for start in range(0, len(ids), _CHUNK)
            for of_first, of_second in zip(
                _rankings(first, ids[start : start + _CHUNK], depth),
                _rankings(second, ids[start : start + _CHUNK], depth),
                strict=True,
            )
        ]
    )
    return Calibration(overlaps=overlaps, depth=depth, options=used)


def shared_overlap(
    of_first: Sequence[Match],
    of_second: Sequence[Match],
    first: SearchIndex,
    second: SearchIndex,
    *,
    persistence: float,
) -> float:
    """Return the rank-biased overlap of two rankings for one query, in [0,1], over the items that are in both indexes.

    The rankings must not be filtered by label, and must be as deep as those of the calibration.
    """
    ids_first, ids_second = ({match.item.id for match in matches} for matches in (of_first, of_second))
    # An id in both rankings is in both indexes; only the others have to be looked up.
    only_first = _absent(second, ids_first - ids_second)
    only_second = _absent(first, ids_second - ids_first)
    return rank_biased_overlap(
        _ranking(of_first, leave_out=only_first), _ranking(of_second, leave_out=only_second), persistence=persistence
    )


def _ranking(matches: Sequence[Match], *, leave_out: Set[str]) -> Ranking:
    kept = [match for match in matches if match.item.id not in leave_out]
    return Ranking(ids=tuple(match.item.id for match in kept), scores=tuple(match.score for match in kept))


def _rankings(index: SearchIndex, ids: Sequence[str], depth: int) -> list[list[Match]]:
    """Rank the index for each of `ids`, the item itself left out."""
    return index.search(index.vectors(ids), depth, exclude=ids)


def _absent(index: SearchIndex, ids: Set[str]) -> Set[str]:
    return ids - index.rows(sorted(ids)).keys() if ids else ids
