"""What is usual in the served galleries, kept up to date, for the hint of `hardrank.serving.agreement.calibration`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.serving.agreement.calibration import (
    Calibration,
    Suspicion,
    SuspicionError,
    SuspicionOptions,
    calibrate,
    overlap,
)
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import Match, UnknownItemError

_LOG: Final = logging.getLogger(__name__)
_DRIFT: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judges queries against what was usual at one time."""

    indexes: Mapping[str, SearchIndex]
    """Of the two models, by their keys."""
    calibration: Calibration

    def depth(self, key: str) -> int:
        """How many results of model `key` are compared."""
        return max(1, min(self.calibration.depth, self.indexes[key].size))

    def __call__(self, answers: Mapping[str, Sequence[Match]]) -> Suspicion:
        """Set the disagreement of two unfiltered answers, at least `depth` long, against what is usual."""
        (first, second), depth = self.indexes, self.calibration.depth
        shared = overlap(
            answers[first][:depth],
            answers[second][:depth],
            self.indexes[first],
            self.indexes[second],
            persistence=self.calibration.options.persistence,
        )
        return self.calibration.judge(shared)


class Hint:
    """Knows what is usual for two models. `calibrate` may run while others judge."""

    def __init__(self, indexes: Mapping[str, SearchIndex], options: SuspicionOptions | None = None) -> None:
        """Take the indexes of the two models, by their keys."""
        self._indexes = dict(indexes)
        self._options = options or SuspicionOptions()
        self._sizes: tuple[int, ...] = ()
        self.judge: Judge | None = None
        """None as long as it is not known what is usual."""

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the two models."""
        return frozenset(self._indexes)

    @property
    def stale(self) -> bool:
        """Whether a tenth of either gallery has come or gone since the last calibration."""
        sizes = [index.size for index in self._indexes.values()]
        return not self._sizes or any(
            abs(now - then) > _DRIFT * max(then, 1) for now, then in zip(sizes, self._sizes, strict=True)
        )

    def calibrate(self) -> None:
        """Measure what is usual; seconds for large galleries. Where nothing can be said, there is no hint."""
        sizes = tuple(index.size for index in self._indexes.values())
        first, second = self._indexes.values()
        try:
            calibration = calibrate(first, second, options=self._options)
        except SuspicionError as error:
            self._sizes, self.judge = sizes, None
            _LOG.info("no hint of suspicion: %s", error)
            return
        except (UnknownItemError, InvalidSearchError) as error:
            # Items were deleted meanwhile. It stays stale, so that it is measured again.
            _LOG.info("what is usual could not be measured: %s", error)
            return
        self._sizes = sizes
        self.judge = Judge(indexes=self._indexes, calibration=calibration)


def hint_of(indexes: Mapping[str, SearchIndex]) -> Hint | None:
    """Make the hint of `benign` and `robust`, or of the two models that there are; None where there are not two."""
    chosen = ("benign", "robust") if {"benign", "robust"} <= set(indexes) else tuple(indexes)
    return Hint({key: indexes[key] for key in chosen}) if len(chosen) == 2 else None
