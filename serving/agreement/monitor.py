"""The usual agreement of two served models, kept up to date while their galleries change."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.serving.agreement.calibration import (
    Calibration,
    CalibrationError,
    CalibrationOptions,
    Disagreement,
    calibrate,
    shared_overlap,
)
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import Match, UnknownItemError

_LOG: Final = logging.getLogger(__name__)
_STALE_SHARE: Final = 0.1
"""Share of a gallery that has to be added or deleted before the calibration is repeated."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Compares the rankings of two models for one query, by one calibration."""

    indexes: Mapping[str, SearchIndex]
    """Of the two models, by key."""
    calibration: Calibration

    def depth(self, key: str) -> int:
        """Return how many results of model `key` are needed."""
        return max(1, min(self.calibration.depth, self.indexes[key].size))

    def disagreement(self, answers: Mapping[str, Sequence[Match]]) -> Disagreement:
        """Rate two unfiltered rankings of one query, by model key, each at least `depth` long."""
        (first, second), depth = self.indexes, self.calibration.depth
        rbo = shared_overlap(
            answers[first][:depth],
            answers[second][:depth],
            self.indexes[first],
            self.indexes[second],
            persistence=self.calibration.options.persistence,
        )
        return self.calibration.rate(rbo)


class AgreementMonitor:
    """Measures the usual agreement of two models. `calibrate` may run in one thread while others use `comparison`."""

    def __init__(self, indexes: Mapping[str, SearchIndex], options: CalibrationOptions | None = None) -> None:
        """Take the indexes of the two models, by key."""
        self._indexes = dict(indexes)
        self._options = options or CalibrationOptions()
        self._sizes: tuple[int, ...] = ()
        self.comparison: Comparison | None = None
        """None until the first calibration, and while the galleries share too few items."""

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the two models."""
        return frozenset(self._indexes)

    @property
    def stale(self) -> bool:
        """Whether a tenth of either gallery was added or deleted since the last calibration."""
        sizes = [index.size for index in self._indexes.values()]
        return not self._sizes or any(
            abs(now - then) > _STALE_SHARE * max(then, 1) for now, then in zip(sizes, self._sizes, strict=True)
        )

    def calibrate(self) -> None:
        """Measure the usual agreement; takes seconds for large galleries."""
        sizes = tuple(index.size for index in self._indexes.values())
        first, second = self._indexes.values()
        try:
            calibration = calibrate(first, second, options=self._options)
        except CalibrationError as error:
            self._sizes, self.comparison = sizes, None
            _LOG.info("the models are not compared: %s", error)
            return
        except (UnknownItemError, InvalidSearchError) as error:
            # Items were deleted meanwhile. The monitor stays stale, so that this is repeated.
            _LOG.info("the calibration was interrupted and will be repeated: %s", error)
            return
        self._sizes = sizes
        self.comparison = Comparison(indexes=self._indexes, calibration=calibration)


def monitor_for(indexes: Mapping[str, SearchIndex]) -> AgreementMonitor | None:
    """Return the monitor of `benign` and `robust`, else of the only two models; None if there is no such pair."""
    keys = ("benign", "robust") if {"benign", "robust"} <= set(indexes) else tuple(indexes)
    return AgreementMonitor({key: indexes[key] for key in keys}) if len(keys) == 2 else None
