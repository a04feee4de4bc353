"""All limits and options of the server, with their units."""

import ipaddress
import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import DecodeLimits

_MIB = 2**20


class SettingsError(HardrankError):
    """An option of the server that is out of its range."""


class Anonymous(StrEnum):
    """What callers without an API key may do."""

    AUTO = "auto"
    """With keys: nothing. Without: everything on the loopback, reading beyond it."""
    NOTHING = "nothing"
    READ = "read"
    """Search and look at items."""
    WRITE = "write"
    """Add and delete items too."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may cost. Raises `SettingsError` for a limit below 1."""

    body_bytes: int = 34 * _MIB
    """Bytes of a request's body; checked against Content-Length, and again while the body comes in."""
    held_bytes: int = 512 * _MIB
    """Bytes of all bodies that are in memory at once; above, requests are answered 429."""
    body_seconds: float = 30.0
    """Seconds that a body may take to come in."""
    image_bytes: int = 32 * _MIB
    """Bytes of one image file."""
    image_pixels: int = 50_000_000
    """Width × height of an image, pixels."""
    image_side: int = 16_384
    """Longer side of an image, pixels."""
    image_scans: int = 100
    """Scans of a progressive JPEG."""
    results: int = 1000
    """Largest k, the number of results of a search."""
    batch_queries: int = 64
    """Images and ids in one batch search."""
    page_items: int = 1000
    """Ids in one page of the listing of items."""

    def __post_init__(self) -> None:
        _check_at_least(self, 1)

    @property
    def decoding(self) -> DecodeLimits:
        """The part that decoding an image keeps to."""
        return DecodeLimits(
            max_bytes=self.image_bytes,
            max_pixels=self.image_pixels,
            max_side=self.image_side,
            max_scans=self.image_scans,
        )


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How requests of all callers share the network. Raises `SettingsError` for values out of range."""

    batch: int = 32
    """Images of all callers that are taken together, at most."""
    chunk: int = 0
    """Images that pass the network together; 0: 8 on a processor, whose caches more of them overflow, and the whole
    batch on a GPU."""
    wait_ms: float = 2.0
    """Milliseconds that an idle network waits for images that are being decoded; alone, a query never waits."""
    pending: int = 256
    """Images admitted and not answered yet; above, requests are answered 429."""
    decoders: int = 0
    """Threads that decode images; 0: one for each core."""

    def __post_init__(self) -> None:
        _check_at_least(self, 0)
        if self.batch < 1 or self.pending < 1:
            raise SettingsError(f"batch is {self.batch} and pending {self.pending}; give at least 1 for both.")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may do what, how often. Raises `SettingsError` for values out of range."""

    api_keys: Path | None = None
    """File of API keys, as `python serving/keys.py` writes it. HARDRANK_READ_KEYS and HARDRANK_WRITE_KEYS (keys, with
    commas between) add to it."""
    anonymous: Anonymous = Anonymous.AUTO
    """What callers without a key may do; `auto`: with keys nothing, without keys everything on the loopback and
    reading beyond it."""
    rate: float = 100.0
    """Requests a second for each key (without keys: each client address); each query of a batch counts. 0: no limit."""
    burst: int = 200
    """Requests that may come at once after a pause."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the server is reached (Host header); none: on the loopback its own names, beyond it any."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API from a browser, as https://example.org; none: only the server's own
    page."""
    proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For is believed."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise SettingsError(f"rate is {self.rate}; give requests a second, or 0 for no limit.")
        if self.burst < 1:
            raise SettingsError(f"burst is {self.burst}; give at least 1.")


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where the server listens. Raises `SettingsError` for values out of range."""

    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 answers this machine alone, 0.0.0.0 every machine that reaches it."""
    port: int = 7860
    """TCP port; 0: any free one."""
    drain_seconds: float = 30.0
    """Seconds that a shutdown waits for the answers to what was accepted."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; give 0 to 65535.")
        if not (math.isfinite(self.drain_seconds) and self.drain_seconds >= 0):
            raise SettingsError(f"drain_seconds is {self.drain_seconds}; give seconds, 0 or more.")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the server can be told, apart from what it serves."""

    network: Network = field(default_factory=Network)
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)
    metrics: bool = True
    """Whether /metrics answers (Prometheus text, no secret in it)."""
    page: bool = True
    """Whether the search page is served at /."""


def _check_at_least(options: Limits | Batching, least: int) -> None:
    for name, value in vars(options).items():
        if not (math.isfinite(value) and value >= least):
            raise SettingsError(f"{name} is {value}; give {least} or more.")
