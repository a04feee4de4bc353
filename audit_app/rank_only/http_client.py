"""Requests to a search API: only to an address that is the user's own, slowly, and with limits on what comes back."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from hardrank.audit_app.errors import AuditError
from hardrank.serving.settings import is_loopback

_CHUNK: Final = 1 << 16
_BUSY: Final = frozenset({429, 503})
_LONGEST_WAIT_S: Final = 60.0
_SHOWN: Final = 200
"""Characters of an answer in messages."""


class SearchApiError(AuditError):
    """A search API did not answer as it should."""


class AddressRefusedError(SearchApiError):
    """The address is neither on this machine nor one that the user has said to own."""


class SearchApiTimeoutError(SearchApiError):
    """The API did not answer in time."""


class AnswerTooLargeError(SearchApiError):
    """The answer is larger than the limit."""


@dataclass(frozen=True, kw_only=True)
class ApiAddress:
    """The address of an API, checked by `check_address`."""

    parts: SplitResult

    @property
    def base(self) -> str:
        """Path below which the API is, without a slash at the end."""
        return self.parts.path.rstrip("/")

    @property
    def url(self) -> str:
        """The address as text."""
        return self.parts.geturl()

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        return _is_loopback(self.parts.hostname or "")


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Limits of the client. Raises `SearchApiError` for values out of range."""

    timeout_s: float = 30.0
    """Seconds until a request must be answered completely."""
    rate: float = 20.0
    """Most queries per second; 0: no limit."""
    largest_answer: int = 32 * 2**20
    """Bytes of an answer."""
    attempts: int = 5
    """How often a request is sent while the API answers that it is busy (429 or 503)."""

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0 and self.rate >= 0 and self.largest_answer >= 1 and self.attempts >= 1):
            raise SearchApiError(
                f"timeout {self.timeout_s} s, rate {self.rate}, largest answer {self.largest_answer} bytes, "
                f"{self.attempts} attempts: give numbers above 0 (a rate of 0: no limit)"
            )


def check_address(url: str, *, owned_host: str | None) -> ApiAddress:
    """Return the address of an API that may be attacked.

    Args:
        url: `http://` or `https://`, a host, and a path if the API is not at the root.
        owned_host: The host that the user says to own; needed unless the URL is on the loopback.

    Raises:
        AddressRefusedError: Another scheme, user names or queries in the URL, or a host that is neither on the loopback
            nor `owned_host`.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise AddressRefusedError(f"the address is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise AddressRefusedError(f"{url!r} is not an address of a search API; write http://HOST:PORT or https://HOST")
    if parts.username is not None or parts.query or parts.fragment:
        raise AddressRefusedError(
            f"the address of {host} contains a user, a query or a fragment; leave them out, and give the API key in "
            "an environment variable"
        )
    if not _is_loopback(host) and (owned_host or "").lower() != host:
        raise AddressRefusedError(
            f"{host} is not this machine. Attack only a search that is yours, or whose owner has agreed: then repeat "
            f"its name with --owned-host {host}"
        )
    return ApiAddress(parts=parts)


def _is_loopback(host: str) -> bool:
    """Whether all addresses of `host`, an IP address or `localhost`, are loopback; other names are not looked up."""
    if host == "localhost":
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
        except OSError:
            return False
        return bool(found) and all(is_loopback(one) for one in found)
    return is_loopback(host)


@dataclass(kw_only=True)
class ApiClient:
    """Sends requests one after another. Redirects are not followed."""

    address: ApiAddress
    options: ClientOptions = field(default_factory=ClientOptions)
    key: str | None = None
    """API key, sent as a bearer token."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.key is not None and not self.address.loopback and self.address.parts.scheme != "https":
            raise AddressRefusedError(
                f"an API key for {self.address.parts.hostname} would be sent unencrypted; use https"
            )

    def send(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None, queries: int = 0
    ) -> bytes:
        """Send a request of so many queries and return the body of the answer.

        Raises:
            SearchApiTimeoutError: No complete answer in time.
            AnswerTooLargeError: More bytes than the limit.
            SearchApiError: No connection, a redirect, or another status than 200.
        """
        sent = {**(headers or {}), "Accept": "application/json"}
        if self.key is not None:
            sent["Authorization"] = f"Bearer {self.key}"
        for attempt in range(self.options.attempts):
            self._pause(queries)
            status, answer, wait = self._once(method, self.address.base + path, body, sent)
            if status == http.client.OK:
                return answer
            if status not in _BUSY or attempt + 1 == self.options.attempts:
                break
            self.sleep(wait)
        told = answer[:_SHOWN].decode("utf-8", "replace")
        if 300 <= status < 400:
            raise SearchApiError(f"{self.address.url} answers {path} with a redirect ({status}), which is not followed")
        raise SearchApiError(f"{self.address.url} answers {path} with status {status}: {told}")

    def _pause(self, queries: int) -> None:
        """Wait until the rate allows the next request."""
        if queries and self.options.rate:
            now = self.clock()
            if now < self._next:
                self.sleep(self._next - now)
            self._next = max(now, self._next) + queries / self.options.rate

    def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, float]:
        """Return status, body, and how long to wait before the next attempt."""
        parts, timeout_s = self.address.parts, self.options.timeout_s
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            with _deadline(connection, timeout_s):
                connection.request(method, path, body=body, headers=dict(headers))
                response = connection.getresponse()
                received = self._receive(response, path)
            return response.status, received, _wait(response.getheader("Retry-After"))
        except TimeoutError as error:
            raise SearchApiTimeoutError(f"{self.address.url} did not answer {path} within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise SearchApiError(f"{self.address.url} cannot be reached: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _receive(self, response: http.client.HTTPResponse, path: str) -> bytes:
        received, limit = bytearray(), self.options.largest_answer
        while chunk := response.read1(_CHUNK):
            received += chunk
            if len(received) > limit:
                raise AnswerTooLargeError(
                    f"{self.address.url} answers {path} with more than {limit} bytes; ask for fewer results, or "
                    "raise --largest-answer"
                )
        return bytes(received)


@contextmanager
def _deadline(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Connect, and raise `TimeoutError` if that and the block take longer than `seconds`.

    The timeout of a socket is that of one read: a server that sends a byte now and then would never exceed it. So the
    socket is shut down at the deadline, which ends a read or write in progress.
    """
    end = time.monotonic() + seconds
    connection.connect()
    timer = threading.Timer(end - time.monotonic(), _shut_down, [connection.sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= end:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    if time.monotonic() >= end:  # an answer without a length just ends when the socket is shut down
        raise TimeoutError


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of an SSLSocket, which another thread reads


def _wait(retry_after: str | None) -> float:
    """Seconds of the header Retry-After, within reason."""
    try:
        seconds = float(retry_after or 1)
    except ValueError:  # a date
        seconds = 1.0
    return min(max(0.1, seconds), _LONGEST_WAIT_S)  # in this order, which turns NaN into 0.1
