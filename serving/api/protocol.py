"""The HTTP protocol of uvicorn (httptools) with limits on connections, request heads, and the time of requests.

uvicorn limits how long an idle connection is kept, and the endpoints limit the size of bodies. Nothing else limits the
number of connections, the size of the head (request line and headers), or the time in which a request arrives and its
response is taken. Nor does anything limit how fast large bodies come, whether an endpoint reads them or not: each byte
takes time of the event loop, which serves everybody.
"""

import ipaddress
import json
from asyncio import AbstractEventLoop, TimerHandle
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hardrank.serving.api.auth import network_of
from hardrank.serving.api.rate_limit import Pace
from hardrank.serving.settings import Limits

HEAD_BYTES: Final = 2**16
"""Largest request head, bytes."""
_MOST_PIPELINED: Final = 32
"""Requests that one connection may send ahead while an earlier one is answered."""
_CHUNK_COST: Final = 32
"""Bytes of overhead that each chunk of a body, and each trailer, counts as: each takes time on the event loop."""
_GRACE_S: Final = 1.0
"""Seconds that the endpoints have to report a slow body before the connection is closed."""
_SMALL_BODY: Final = 2**20
"""Bytes of a body that are read without delay."""
_LEAST_TAKEN: Final = 2**18
"""Bytes of a response that a client must take in the time of a body, or all of it."""
_BODY_RATE: Final = 64 * 2**20
"""Further bytes per second that are read from one address."""


class PacedFlow(FlowControl):
    """Pauses reading for two reasons: nobody takes what was read, or it came too fast."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._full = False
        self._fast = False

    def pause_reading(self) -> None:
        """Pause until the reader takes what was read."""
        self._full = True
        self._apply()

    def resume_reading(self) -> None:
        """Continue, unless the time of `hold` is not over."""
        self._full = False
        self._apply()

    def hold(self, loop: AbstractEventLoop, seconds: float) -> None:
        """Pause for a time."""
        if not self._fast:
            self._fast = True
            self._apply()
            loop.call_later(seconds, self._release)

    def _release(self) -> None:
        self._fast = False
        if not self._transport.is_closing():
            self._apply()

    def _apply(self) -> None:
        if self._full or self._fast:
            super().pause_reading()
        else:
            super().resume_reading()


class Connections:
    """Counts the open connections of a server, in all and by address."""

    def __init__(self, *, most: int, most_of_address: int, proxies: Iterable[str] = ()) -> None:
        """Allow `most` connections, `most_of_address` of them from one address unless it is one of `proxies`."""
        self._most = most
        self._most_of_address = most_of_address
        self._proxies = tuple(proxies)
        self._open: Counter[str] = Counter()
        self._count = 0

    def open(self, address: str) -> str | None:
        """Count a new connection, or return the status line of its refusal."""
        if self._count >= self._most:
            return "503 Service Unavailable"
        caller = network_of(address)
        if self._open[caller] >= self._most_of_address and not self._is_proxy(address):
            return "429 Too Many Requests"
        self._count += 1
        self._open[caller] += 1
        return None

    def close(self, address: str) -> None:
        """Stop counting a connection."""
        caller = network_of(address)
        self._count -= 1
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]

    def _is_proxy(self, address: str) -> bool:
        return any(proxy in {"*", address} or _contains(proxy, address) for proxy in self._proxies)


def _contains(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


class LimitedProtocol(HttpToolsProtocol):
    """Refuses connections and request heads beyond the limits, and closes connections that do not progress in time."""

    head_seconds: float = 15.0
    """Seconds in which a head must arrive, from its first byte, or for the first request from the connection on."""
    body_seconds: float = 30.0
    """Seconds in which a body must arrive, and in which the client must take some of the response."""
    connection_count: Connections | None = None
    """Counts the connections of the server; None: they are not limited."""
    body_pace: Pace | None = None
    """Slows down the large bodies of one address; None: they are not delayed."""
    _counted: bool = False
    """Whether this connection is counted."""
    _open: bool = True
    """Whether a head is being received or expected."""
    _received: int = 0
    """Bytes received of the current request."""
    _ended: bool = False
    """Whether a request ended in the data that is being parsed."""
    flow: PacedFlow
    _answered: Any = None
    """The request that is being answered; `cycle` of uvicorn is the one that came last."""
    _body_bytes: int = 0
    """Body bytes of the current request."""
    _overhead: int = 0
    """Overhead of its chunks and trailers, bytes; see `_CHUNK_COST`."""
    _timer: TimerHandle | None = None
    """Closes the connection unless the head or body arrives in time."""
    _write_timer: TimerHandle | None = None
    """Closes the connection unless the client takes the response in time."""

    def connection_made(self, transport: Any) -> None:
        """Refuse the connection, or start the timer of the first head."""
        super().connection_made(transport)
        self.flow = PacedFlow(transport)
        if self.connection_count is not None:
            status = self.connection_count.open(self._address)
            if status is not None:
                self._reject(status, "Too many connections", "Too many connections are open; close some and try again.")
                return
            self._counted = True
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._end()
        self._end_write()
        self.pipeline.clear()
        if self._answered is not None and not self._answered.response_complete:
            # Else it is answered on the closed connection, which is logged.
            self._answered.disconnected = True
            self._answered.message_event.set()
        if self._counted and self.connection_count is not None:
            self._counted = False
            self.connection_count.close(self._address)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer of the response: the client does not take it as fast as it is written."""
        super().pause_writing()
        self._end_write()
        self._begin_write(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop the timer of the response."""
        self._end_write()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse data, without logging what is invalid; then check the size of the head, or of what is not body."""
        self._unset_keepalive_if_required()
        self._ended = False
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # There is no other protocol; the request is answered as any other.
        except HttpParserError:
            self._reject(
                "400 Bad Request",
                "Invalid HTTP request",
                "The request is not valid HTTP/1.1, its chunks are too small, or too many requests came before it.",
            )
            return
        # Data with the end of a request does not count for the next one.
        self._received = 0 if self._ended else self._received + len(data)
        most = HEAD_BYTES if self._open else HEAD_BYTES + self._body_bytes + self._most_overhead
        if self._received > most and not self.transport.is_closing():
            self._reject(
                "431 Request Header Fields Too Large",
                "Request headers too large",
                f"The request line and headers exceed {HEAD_BYTES} bytes; send fewer or shorter headers.",
            )

    def on_message_begin(self) -> None:
        """Start the timer of the next head."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise HttpParserError("too many requests sent ahead")
        super().on_message_begin()
        self._body_bytes = self._overhead = 0
        if not self._open:
            self._begin()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the head; those after a body are dropped."""
        if self._open:
            super().on_header(name, value)
        else:
            self._count_overhead(_CHUNK_COST + len(name) + len(value))

    def on_chunk_header(self) -> None:
        """Refuse a body in tiny chunks."""
        self._count_overhead(_CHUNK_COST)

    def on_headers_complete(self) -> None:
        """Start the timer of the body: the head is complete."""
        self._end()
        self._timer = self.loop.call_later(self.body_seconds + _GRACE_S, self._close)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Delay what follows if a large body comes too fast."""
        super().on_body(body)
        self._body_bytes += len(body)
        if self.body_pace is not None and self._body_bytes > _SMALL_BODY:
            delay = self.body_pace.delay(network_of(self._address), len(body))
            if delay:
                self.flow.hold(self.loop, delay)

    def on_message_complete(self) -> None:
        """Stop the timer: the body is complete."""
        self._end()
        self._ended = True
        super().on_message_complete()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _most_overhead(self) -> int:
        return HEAD_BYTES + self._body_bytes // 4

    def _count_overhead(self, count: int) -> None:
        self._overhead += count
        if self._overhead > self._most_overhead:
            raise HttpParserError("the body is mostly overhead")

    def _begin(self) -> None:
        self._open, self._received = True, 0
        self._timer = self.loop.call_later(self.head_seconds, self._close)

    def _end(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _begin_write(self, unsent: int) -> None:
        self._write_timer = self.loop.call_later(self.body_seconds, self._check_write, unsent)

    def _check_write(self, unsent: int) -> None:
        """Close the connection if the client took little since the timer started."""
        left = self.transport.get_write_buffer_size()
        if left > unsent - _LEAST_TAKEN:
            self.transport.abort()
        else:
            self._begin_write(left)

    def _end_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _reject(self, status: str, title: str, detail: str) -> None:
        """Answer the request that is being received, unless an earlier one is not answered yet, and close."""
        cycle = self.cycle
        if cycle is not None and not (cycle.response_complete or (cycle.more_body and not cycle.response_started)):
            self.transport.close()
            return
        problem = {
            "type": "about:blank",
            "title": title,
            "status": int(status[:3]),
            "detail": detail,
            "request_id": "",
        }
        body = json.dumps(problem)
        self.transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"Retry-After: 1\r\nConnection: close\r\n\r\n{body}".encode("ascii")
        )
        self.transport.close()


def limited_protocol(limits: Limits, *, proxies: Iterable[str] = (), most: int | None = None) -> type[LimitedProtocol]:
    """Return the protocol of one server, which counts the connections of that server.

    Args:
        limits: The limits of connections and times.
        proxies: Addresses or networks of reverse proxies, to which the limit by address does not apply.
        most: Connections for which the process has file descriptors. One address gets at most half of them.
    """
    total = limits.connections if most is None else min(limits.connections, most)
    count = Connections(
        most=total, most_of_address=min(limits.connections_per_address, max(1, total // 2)), proxies=proxies
    )

    class ServerProtocol(LimitedProtocol):
        body_seconds = limits.body_seconds
        connection_count = count
        body_pace = Pace(rate=_BODY_RATE, burst=_SMALL_BODY)

    return ServerProtocol
