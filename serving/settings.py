"""Options and limits of the server."""

import ipaddress
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hardrank.models.decode_limits import DecodeLimits
from hardrank.models.errors import HardrankError

_MIB = 2**20
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~\-]+)+")


class SettingsError(HardrankError):
    """An option of the server is out of range."""


def is_loopback(address: str | None) -> bool:
    """Return whether only this machine can reach a server that listens on `address`; None: on all addresses."""
    if address == "localhost":
        return True
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Anonymous(StrEnum):
    """What callers without an API key may do."""

    AUTO = "auto"
    """Nothing if there are keys; else everything on the loopback, and read elsewhere."""
    NOTHING = "nothing"
    READ = "read"
    """Search and read items."""
    WRITE = "write"
    """Add and delete items too."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests. Raises `SettingsError` for a limit below 1."""

    body_bytes: int = 34 * _MIB
    """Largest request body, bytes; checked against Content-Length and while receiving."""
    held_bytes: int = 512 * _MIB
    """Largest total of request bodies and of the images that the page reads in memory, bytes; of the page's uploads on
    disk; and of large responses that are not taken yet. Beyond it, requests get a 429. One address gets a quarter, or
    the space for one request."""
    body_seconds: float = 30.0
    """Seconds in which a request body must arrive, and in which a client must take each 256 KiB of a response."""
    connections: int = 1024
    """Most open connections; fewer if the process may not open so many files. Beyond it, a connection gets a 503."""
    connections_per_address: int = 256
    """Most open connections of one address, and never more than half of all; beyond it, a connection gets a 429.
    Reverse proxies (--proxies) are exempt."""
    image_bytes: int = 32 * _MIB
    """Largest image file, bytes."""
    image_pixels: int = 50_000_000
    """Largest width × height of an image, pixels; a baseline JPEG may have four times as many, and is decoded at half
    its size."""
    image_side: int = 16_384
    """Largest longer side of an image, pixels."""
    image_scans: int = 100
    """Most scans in a progressive JPEG."""
    results: int = 1000
    """Largest k, the number of results per model, if the smallest index that is searched has as many items."""
    batch_queries: int = 64
    """Most queries (images and ids) in one batch."""
    page_items: int = 1000
    """Most ids in one page of the list of items."""

    def __post_init__(self) -> None:
        _check_at_least(self, 1)

    @property
    def decoding(self) -> DecodeLimits:
        """The limits that image decoding applies."""
        return DecodeLimits(
            max_bytes=self.image_bytes,
            max_pixels=self.image_pixels,
            max_side=self.image_side,
            max_scans=self.image_scans,
        )


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the queries of all callers share the network. Raises `SettingsError` for values out of range."""

    batch: int = 32
    """Largest batch of a GPU, images, and of searches of the index. A CPU embeds few images at a time."""
    wait_ms: float = 2.0
    """Milliseconds that an idle network waits for images that are being decoded. A lone query never waits."""
    pending: int = 256
    """Most queries admitted but not answered yet, half of them for one caller; beyond it, requests get a 429."""
    decoders: int = 0
    """Threads that decode images of one caller; 0: one per usable core. One more decodes those of others."""

    def __post_init__(self) -> None:
        _check_at_least(self, 0)
        if self.batch < 1 or self.pending < 1:
            raise SettingsError(f"batch is {self.batch} and pending is {self.pending}; use at least 1 for both")


@dataclass(frozen=True, kw_only=True)
class Access:
    """API keys, rate limits and allowed origins. Raises `SettingsError` for values out of range."""

    api_keys: Path | None = None
    """Key file, made by the command `keys`. The environment variables HARDRANK_READ_KEYS and HARDRANK_WRITE_KEYS (keys
    separated by commas) add to it."""
    anonymous: Anonymous = Anonymous.AUTO
    """What callers without a key may do; auto: nothing if there are keys, else everything on the loopback and read
    elsewhere."""
    rate: float = 100.0
    """Requests per second and key, or client address without a key. Each query of a batch counts, and each 256 KiB of
    results or of an image. 0: no limit."""
    burst: int = 200
    """Most requests at once after a pause."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names to accept in the Host header; none: its own names on the loopback, any elsewhere."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API from a browser (CORS), such as https://example.org; none: only the
    server's own page."""
    proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For header is trusted."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise SettingsError(f"rate is {self.rate}; use requests per second, or 0 for no limit")
        if self.burst < 1:
            raise SettingsError(f"burst is {self.burst}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where the server listens. Raises `SettingsError` for values out of range."""

    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for every machine that can reach it."""
    port: int = 7860
    """TCP port; 0: any free port."""
    root_path: str = ""
    """Path below which a reverse proxy serves this server, such as /search; the proxy removes it from requests."""
    drain_seconds: float = 30.0
    """Seconds that a shutdown waits for accepted requests."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; use 0 to 65535")
        if self.root_path and (not _ROOT_PATH.fullmatch(self.root_path)):
            raise SettingsError(
                f"root_path is {self.root_path!r}; use a path such as /search, without a slash at the end"
            )
        if not (math.isfinite(self.drain_seconds) and self.drain_seconds >= 0):
            raise SettingsError(f"drain_seconds is {self.drain_seconds}; use 0 or more seconds")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All options of the server, except the models."""

    network: Network = field(default_factory=Network)
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)
    metrics: bool = True
    """Whether to serve /metrics for Prometheus."""
    page: bool = True
    """Whether to serve the search page at /."""


def _check_at_least(options: Limits | Batching, least: int) -> None:
    for name, value in vars(options).items():
        if not (math.isfinite(value) and value >= least):
            raise SettingsError(f"{name} is {value}; use {least} or more")
