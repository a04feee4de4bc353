"""Rate limits per caller: of requests, which are refused beyond it, and of bytes, which are made to wait."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from hardrank.models.errors import HardrankError
from hardrank.serving.store.errors import InvalidSearchError

BYTES_OF_REQUEST: Final = 2**18
"""Bytes of a response that count as one more request."""
_MOST_BUCKETS: Final = 100_000
"""Callers that are remembered; beyond, the least recent is forgotten."""


class RateLimitedError(HardrankError):
    """The caller exceeded the rate limit."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds after which the same request is within the limit."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    updated: float


@dataclass(kw_only=True)
class RateLimit:
    """A bucket of tokens per caller: `burst` at most, refilled at `rate` per second. Used from one event loop."""

    rate: float
    """Tokens per second; 0: no limit."""
    burst: int
    clock: Callable[[], float] = monotonic
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict, init=False, repr=False)

    def check_size(self, queries: int) -> None:
        """Raise `InvalidSearchError` for more queries in one request than the limit ever admits."""
        if self.rate and queries > self.burst:
            raise InvalidSearchError(
                f"{queries} queries in one request exceed the largest burst of the rate limit, {self.burst}; send "
                "fewer per request"
            )

    def take(self, caller: str, tokens: int = 1) -> None:
        """Take tokens of `caller`; raises `RateLimitedError` with the time to wait if there are too few.

        Call `check_size` first with what one request takes in all.
        """
        if not self.rate:
            return
        bucket = self._bucket(caller)
        if bucket.tokens < tokens:
            wait = int((tokens - bucket.tokens) / self.rate) + 1
            raise RateLimitedError(
                f"The rate limit is {self.rate:g} requests per second; try again in {wait} s.", retry_after_s=wait
            )
        bucket.tokens -= tokens

    def charge(self, caller: str, size: int) -> None:
        """Take a token for every `BYTES_OF_REQUEST` of a response, even if there are too few: later requests wait."""
        if self.rate and size >= BYTES_OF_REQUEST:
            self._bucket(caller).tokens -= size // BYTES_OF_REQUEST

    def _bucket(self, caller: str) -> _Bucket:
        """Return the bucket of a caller, refilled until now."""
        now = self.clock()
        if caller in self._buckets:
            self._buckets.move_to_end(caller)
            bucket = self._buckets[caller]
            bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.updated) * self.rate)
            bucket.updated = now
            return bucket
        self._buckets[caller] = _Bucket(tokens=self.burst, updated=now)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return self._buckets[caller]


class Pace:
    """Delays the bytes of a caller to `rate` per second, after `burst` at once. Used from one event loop."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._ready: OrderedDict[str, float] = OrderedDict()
        """When the bytes so far are due, by caller."""

    def delay(self, caller: str, count: int) -> float:
        """Count bytes of a caller; return the seconds to wait before the next ones."""
        now = self._clock()
        ready = max(self._ready.get(caller, -math.inf), now - self._burst / self._rate) + count / self._rate
        self._ready[caller] = ready
        self._ready.move_to_end(caller)
        if len(self._ready) > _MOST_BUCKETS:
            self._ready.popitem(last=False)
        return max(0.0, ready - now)
