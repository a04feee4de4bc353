"""Rate limits per caller."""

import pytest

from hardrank.serving.api.rate_limit import BYTES_OF_REQUEST, Pace, RateLimit, RateLimitedError
from hardrank.serving.store.errors import InvalidSearchError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_refills_up_to_the_burst() -> None:
    clock = Clock()
    limit = RateLimit(rate=2.0, burst=3, clock=clock)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(RateLimitedError) as caught:
        limit.take("a")
    assert caught.value.retry_after_s == 1
    limit.take("b")  # another caller has another bucket
    clock.now = 0.5
    limit.take("a")  # one token was refilled
    with pytest.raises(RateLimitedError):
        limit.take("a")
    clock.now = 1000.0
    limit.take("a", 3)  # no more than the burst accumulates
    with pytest.raises(RateLimitedError) as caught:
        limit.take("a", 3)
    assert caught.value.retry_after_s == 2
    limit.check_size(3)
    with pytest.raises(InvalidSearchError, match="fewer"):
        limit.check_size(4)


def test_the_retry_time_is_sufficient() -> None:
    clock = Clock()
    limit = RateLimit(rate=0.3, burst=5, clock=clock)
    limit.take("a", 5)
    for tokens in (1, 2, 5):
        with pytest.raises(RateLimitedError) as caught:
            limit.take("a", tokens)
        clock.now += caught.value.retry_after_s
        limit.take("a", tokens)


def test_a_large_response_counts_as_many_requests_beyond_those_that_are_left() -> None:
    clock = Clock()
    limit = RateLimit(rate=2.0, burst=3, clock=clock)
    limit.take("a")
    limit.charge("a", BYTES_OF_REQUEST - 1)
    limit.take("a")
    limit.charge("a", 5 * BYTES_OF_REQUEST + 1)
    with pytest.raises(RateLimitedError) as caught:
        limit.take("a")
    assert caught.value.retry_after_s == 3
    limit.take("b")
    clock.now = 3.0
    limit.take("a")


def test_no_limit_without_a_rate() -> None:
    limit = RateLimit(rate=0.0, burst=1)
    for _ in range(1000):
        limit.take("a", 50)
        limit.charge("a", 2**30)


def test_bytes_beyond_the_burst_wait_for_the_pace() -> None:
    clock = Clock()
    pace = Pace(rate=100, burst=50, clock=clock)
    assert pace.delay("a", 50) == 0
    assert pace.delay("a", 100) == pytest.approx(1)
    assert pace.delay("b", 50) == 0
    clock.now = 1.5
    assert pace.delay("a", 60) == pytest.approx(0.1)
    clock.now = 100
    assert pace.delay("a", 51) == pytest.approx(0.01)  # no more than the burst accumulates
