"""Options and limits out of range are named."""

import math
from collections.abc import Callable, Sequence

import pytest

from hardrank.models.decode_limits import DecodeLimits
from hardrank.serving.settings import Access, Batching, Limits, Network, Settings, SettingsError


def test_default_limits_equal_those_of_decoding() -> None:
    assert Settings().limits.decoding == DecodeLimits()


@pytest.mark.parametrize(
    ("options", "name", "values"),
    [
        *((Limits, name, (0, -1, math.nan, math.inf)) for name in vars(Limits())),
        (Batching, "batch", (0,)),
        (Batching, "pending", (0,)),
        (Batching, "wait_ms", (-1.0, math.nan)),
        (Batching, "decoders", (-1,)),
        (Access, "rate", (-1.0, math.nan, math.inf)),
        (Access, "burst", (0,)),
        (Network, "port", (-1, 65536)),
        (Network, "drain_seconds", (math.nan,)),
    ],
)
def test_rejects_options_out_of_range(options: Callable[..., object], name: str, values: Sequence[float]) -> None:
    for value in values:
        with pytest.raises(SettingsError, match=name):
            options(**{name: value})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_which_hosts_are_the_loopback(host: str, loopback: bool) -> None:
    assert Network(host=host).loopback is loopback
