"""Request heads are limited in size and time, on new and on reused connections; and the time of slow readers."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Queue
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, ClassVar, Final, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from hardrank.serving.api.middleware import route_path
from hardrank.serving.api.protocol import HEAD_BYTES, LimitedProtocol
from hardrank.serving.api.rate_limit import Pace
from tests.serving.raw_clients import read_all
from tests.waiting import PATIENCE_S, until

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


LARGE = 32 * 2**20
"""Bytes of the response to GET /large: more than the buffers of the system hold."""


SLOW: Final = Event()
"""Set: GET /slow is answered."""


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the length of the body; to /unread, without reading it."""
    while scope["path"] == "/slow" and not SLOW.is_set():
        await asyncio.sleep(0.01)
    length, more = 0, scope["path"] != "/unread"
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = bytes(LARGE) if scope["path"] == "/large" else str(length).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class PatientProtocol(LimitedProtocol):
    """Waits long enough for a head on a busy machine."""

    head_seconds = PATIENCE_S


class ImpatientProtocol(LimitedProtocol):
    """Waits one second for a head."""

    head_seconds = 1.0


class CountingPace(Pace):
    """Counts the bytes that it may delay."""

    counted = 0

    def delay(self, caller: str, count: int) -> float:
        self.counted += count
        return super().delay(caller, count)


class ManualLoop:
    """An event loop whose timers of responses run when a test says so, however long the machine takes meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop, self._transport = loop, transport
        self._started: list[tuple[asyncio.TimerHandle, Callable[[], None], int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        handle = self._loop.call_later(max(delay, PATIENCE_S), callback, *arguments)
        if delay == ManualProtocol.body_seconds:
            unsent = self._transport.get_write_buffer_size()
            self._started.append((handle, partial(callback, *arguments), unsent))
        return handle

    @property
    def waiting(self) -> bool:
        """Whether a timer runs, because the client takes nothing."""
        return any(not handle.cancelled() for handle, _, _ in list(self._started))

    @property
    def progress(self) -> bool:
        """Whether the client has taken enough of the response since the timer started."""
        now = self._transport.get_write_buffer_size()
        return any(now <= unsent - 2**18 and not handle.cancelled() for handle, _, unsent in list(self._started))

    def run_timers(self) -> None:
        """Let the time of the timers be over."""
        done = Event()

        def run() -> None:
            started, self._started = self._started, []
            for handle, callback, _ in started:
                if not handle.cancelled():
                    handle.cancel()
                    callback()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE_S)


class ManualProtocol(PatientProtocol):
    """The timers of its responses are those of a `ManualLoop`."""

    body_seconds = 7.0
    made: ClassVar[Queue["ManualProtocol"]] = Queue()

    def connection_made(self, transport: Any) -> None:
        self.timers = ManualLoop(self.loop, transport)
        self.loop = cast(asyncio.AbstractEventLoop, self.timers)
        self.closed = Event()
        super().connection_made(transport)
        self.made.put(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


@contextmanager
def _serving(listener: socket.socket, protocol: type[LimitedProtocol]) -> Iterator[None]:
    # Only heads are limited in time: an idle connection may stay open.
    idle = int(PATIENCE_S)
    server = uvicorn.Server(
        uvicorn.Config(_app, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=idle)
    )
    thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket that queues connections and their first bytes until a server runs."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def patient(listener: socket.socket) -> Iterator[socket.socket]:
    """The listening socket of a server that waits long for a head."""
    with _serving(listener, PatientProtocol):
        yield listener


def _connect(listener: socket.socket) -> socket.socket:
    connection = socket.create_connection(listener.getsockname())
    connection.settimeout(PATIENCE_S)
    return connection


def _answer(connection: socket.socket) -> bytes:
    """Read one response and return its body."""
    received = b""
    while True:
        head, found, body = received.partition(b"\r\n\r\n")
        if found:
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) == length:
                return body
        chunk = connection.recv(65536)
        assert chunk
        received += chunk


def _read_answers(connection: socket.socket, count: int) -> None:
    """Read until there are so many responses."""
    received = b""
    while received.count(b"HTTP/1.1 200") < count:
        chunk = connection.recv(65536)
        assert chunk
        received += chunk


def test_many_requests_on_one_connection_and_pipelined(listener: socket.socket) -> None:
    with _connect(listener) as connection:
        connection.sendall(GET)  # before the server starts, so that it is in time on a busy machine
        with _serving(listener, ImpatientProtocol):
            assert _answer(connection) == b"0"
            for _ in range(2):
                sleep(0.6)  # the three heads together take longer than one may
                connection.sendall(GET)
                assert _answer(connection) == b"0"
            connection.sendall(GET * 5)
            _read_answers(connection, 5)


def test_a_large_body_does_not_count_as_head(patient: socket.socket) -> None:
    size = 20 * HEAD_BYTES
    with _connect(patient) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        assert _answer(connection) == b"%d" % size


class LongProtocol(PatientProtocol):
    """Waits for a body longer than a test for the end of its connection."""

    body_seconds = 10 * PATIENCE_S


def test_closing_a_connection_whose_first_request_is_not_answered_logs_nothing(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), _serving(listener, ManualProtocol):
        with _connect(listener) as connection:
            connection.sendall(GET.replace(b"/", b"/slow", 1) + GET * 100)  # more than may wait
            served = ManualProtocol.made.get(timeout=PATIENCE_S)
            assert served.closed.wait(PATIENCE_S)
        SLOW.set()
        with _connect(listener) as connection:
            connection.sendall(GET)
            assert _answer(connection) == b"0"
        ManualProtocol.made.get(timeout=PATIENCE_S)
    assert not caplog.records


def test_requests_far_ahead_of_the_answers_are_refused(listener: socket.socket) -> None:
    with _serving(listener, LongProtocol), _connect(listener) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(GET * 20_000)
        assert read_all(connection).count(b"HTTP/1.1 200") < 20_000


@pytest.mark.parametrize(
    "rest",
    [
        b"1\r\na\r\n" * 2**16,
        b"1;" + b"a" * 2**20,
        b"0\r\n" + b"a: b\r\n" * 2**16,
        b"0\r\na: " + b"b" * 2**20,
    ],
    ids=["tiny chunks", "long chunk head", "many trailers", "long trailer"],
)
@pytest.mark.parametrize("path", [b"/", b"/unread"])
def test_bodies_that_are_mostly_overhead_are_refused(listener: socket.socket, path: bytes, rest: bytes) -> None:
    with _serving(listener, LongProtocol), _connect(listener) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(
                b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % path + rest
            )
        read_all(connection)  # ends in time


def test_usual_chunks_are_accepted(patient: socket.socket) -> None:
    rest = b"1\r\na\r\n" * 500 + (b"400\r\n" + b"a" * 1024 + b"\r\n") * 1024 + b"0\r\na: b\r\n\r\n"
    with _connect(patient) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + rest)
        assert _answer(connection) == b"%d" % (500 + 2**20)


def test_the_next_head_may_follow_a_large_body_at_once(patient: socket.socket) -> None:
    size = 3 * HEAD_BYTES
    with _connect(patient) as connection:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
        connection.sendall(head + b"x" * size + GET[:-2])
        assert _answer(connection) == b"%d" % size
        connection.sendall(GET[-2:])
        assert _answer(connection) == b"0"


def test_invalid_requests_and_upgrades_log_nothing(patient: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), _connect(patient) as junk, _connect(patient) as upgrade:
        junk.sendall(b"\x00\xff\r\n\r\n")
        assert read_all(junk).startswith(b"HTTP/1.1 400")
        upgrade.sendall(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert _answer(upgrade) == b"0"
    assert not caplog.records


@pytest.mark.parametrize("path", [b"/", b"/unread"])
def test_large_bodies_are_delayed_and_small_ones_are_not(listener: socket.socket, path: bytes) -> None:
    """Also those that no endpoint reads; the connection can be used again."""
    large, small = 4 * 2**20, 2**16
    post = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    pace = CountingPace(rate=4 * 2**20, burst=1)

    class PacedProtocol(PatientProtocol):
        body_pace = pace

    with _serving(listener, PacedProtocol), _connect(listener) as slow, _connect(listener) as quick:
        began = monotonic()
        sender = Thread(target=lambda: slow.sendall(post % (path, large) + b"x" * large + GET))
        sender.start()
        for _ in range(20):
            quick.sendall(post % (b"/", small) + b"x" * small)
            assert _answer(quick) == b"%d" % small
        _read_answers(slow, 2)
        assert monotonic() - began > 0.5  # 3 MiB after the first one, at 4 MiB per second
        sender.join()
    assert 3 * 2**20 <= pace.counted < 3 * 2**20 + 2**18  # the end of the first MiB may come with what follows


def test_a_body_may_take_longer_than_a_head(listener: socket.socket) -> None:
    with _connect(listener) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
        with _serving(listener, ImpatientProtocol):
            sleep(1.5)
            connection.sendall(b"x")
            assert _answer(connection) == b"2"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * (40 * HEAD_BYTES),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * HEAD_BYTES,
        b"GET /" + b"x" * (40 * HEAD_BYTES),
    ],
)
@pytest.mark.parametrize("first", [b"", GET])
def test_large_heads_are_rejected(patient: socket.socket, head: bytes, first: bytes) -> None:
    with _connect(patient) as connection:
        if first:
            connection.sendall(first)
            assert _answer(connection) == b"0"
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head)
        received = read_all(connection)
        assert received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")) or not received


def test_a_head_just_below_the_limit_is_accepted(patient: socket.socket) -> None:
    with _connect(patient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (HEAD_BYTES - 100) + b"\r\n\r\n")
        assert _answer(connection) == b"0"


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_silent_connections_are_closed(listener: socket.socket, begun: bytes) -> None:
    began = monotonic()
    with _serving(listener, ImpatientProtocol), _connect(listener) as connection:
        connection.sendall(begun)
        assert read_all(connection) == b""
    assert monotonic() - began > 0.9


def test_single_bytes_do_not_extend_the_time(listener: socket.socket) -> None:
    with _connect(listener) as connection:
        connection.sendall(GET)
        with _serving(listener, ImpatientProtocol):
            assert _answer(connection) == b"0"
            with pytest.raises((BrokenPipeError, ConnectionResetError, ConnectionAbortedError)):
                _trickle(connection)  # would take twenty seconds


def _trickle(connection: socket.socket) -> None:
    for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
        connection.sendall(bytes([byte]))
        sleep(0.02)


def test_clients_that_stop_reading_are_disconnected(listener: socket.socket) -> None:
    with _serving(listener, ManualProtocol), _connect(listener) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        served = ManualProtocol.made.get(timeout=PATIENCE_S)

        def closed() -> bool:
            served.timers.run_timers()  # the buffers of the system may take some of the response before
            return served.closed.is_set()

        until(closed)
        assert len(read_all(connection)) < LARGE


def test_clients_that_read_slowly_get_the_whole_response(listener: socket.socket) -> None:
    with _serving(listener, ManualProtocol), _connect(listener) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        served = ManualProtocol.made.get(timeout=PATIENCE_S)
        until(lambda: served.timers.waiting)
        received = 0
        while not served.timers.progress:  # true long before the end: the system's buffers hold a part of the response
            received += len(connection.recv(2**18))
        served.timers.run_timers()
        assert received + len(read_all(connection)) > LARGE


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/v1/search", "", "/v1/search"),
        ("/search/v1/search", "/search", "/v1/search"),
        ("/search", "/search", ""),
        ("/searching", "/search", "/searching"),
        ("/v1/search", "/search", "/v1/search"),
    ],
)
def test_the_path_of_a_proxy_is_no_part_of_the_route(path: str, root: str, expected: str) -> None:
    assert route_path({"type": "http", "path": path, "root_path": root}) == expected
