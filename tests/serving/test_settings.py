"""Options and limits out of range are named."""

import math

import pytest

from hardrank.models.decode_limits import DecodeLimits
from hardrank.serving.settings import Access, Batching, Limits, Network, Settings, SettingsError


def test_default_limits_equal_those_of_decoding() -> None:
    assert Settings().limits.decoding == DecodeLimits()


@pytest.mark.parametrize("name", list(vars(Limits())))
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_rejects_limits_out_of_range(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("batch", 0), ("pending", 0), ("wait_ms", -1.0), ("wait_ms", math.nan), ("decoders", -1)]
)
def test_rejects_batching_out_of_range(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        Batching(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("rate", -1.0), ("rate", math.nan), ("rate", math.inf), ("burst", 0)])
def test_rejects_access_options_out_of_range(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        Access(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("port", -1), ("port", 65536), ("drain_seconds", math.nan)])
def test_rejects_network_options_out_of_range(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        Network(**{name: value})  # type: ignore[arg-type]


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
