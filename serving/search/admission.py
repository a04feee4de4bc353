"""Admission control: a bounded number of pending queries, none before the warm-up or during shutdown."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from hardrank.models.errors import HardrankError
from hardrank.serving.store.errors import InvalidSearchError

_SMOOTHING: Final = 0.9
"""Weight of earlier queries in the running mean of their duration."""
_LONGEST_RETRY_S: Final = 60


class OverloadedError(HardrankError):
    """Too many queries are pending."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds to wait before a retry."""


class NotReadyError(HardrankError):
    """The server is warming up."""


class ShuttingDownError(HardrankError):
    """The server accepts no more requests because it is shutting down."""

    def __init__(self, message: str = "The server is shutting down; send the request again in a moment.") -> None:
        super().__init__(message)


class Admission:
    """Bounds the number of queries that are admitted but not answered yet. Used from one event loop.

    A named caller gets half of them at most, so that others are admitted whatever one caller sends.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = math.ceil(limit / 2)
        self._mean_s = 0.0
        self._by_caller: Counter[str] = Counter()
        self.pending = 0
        """Queries admitted but not answered yet."""

    @contextmanager
    def enter(self, count: int = 1, *, caller: str = "") -> Iterator[None]:
        """Count `count` queries as pending during the block.

        Raises `OverloadedError` if that exceeds the limit now, `InvalidSearchError` if it always does.
        """
        limit = self._share if caller else self._limit
        if count > limit:
            raise InvalidSearchError(
                f"{count} queries in one request exceed the limit of {limit} pending queries; send fewer per request"
            )
        if caller and self._by_caller[caller] + count > limit:
            raise self._overloaded(f"{self._by_caller[caller]} of at most {limit} queries of this caller are pending")
        if self.pending + count > self._limit:
            raise self._overloaded(f"{self.pending} of at most {self._limit} queries are pending")
        self.pending += count
        self._by_caller[caller] += count
        began = perf_counter()
        try:
            yield
        finally:
            self.pending -= count
            self._by_caller[caller] -= count
            if not self._by_caller[caller]:
                del self._by_caller[caller]
            self._mean_s = _SMOOTHING * self._mean_s + (1 - _SMOOTHING) * (perf_counter() - began)

    def _overloaded(self, why: str) -> OverloadedError:
        """Return the error, which asks the caller to wait for the recent mean duration of a query."""
        retry = min(max(1, math.ceil(self._mean_s)), _LONGEST_RETRY_S)
        return OverloadedError(f"{why}; try again in {retry} s", retry_after_s=retry)
