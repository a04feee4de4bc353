"""Heads of requests are bounded in size and time, whatever else a connection has done."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from time import monotonic, sleep

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from hardrank.serving.api import protocol as connections
from hardrank.serving.api.protocol import HEAD_BYTES, BoundedHeads
from tests.waiting import PATIENCE_S

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell how long the body is."""
    taken, more = 0, True
    while more:
        message = await receive()
        taken, more = taken + len(message.get("body", b"")), message.get("more_body", False)
    body = str(taken).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def _served(listener: socket.socket) -> Iterator[None]:
    # Between two requests a connection may be idle for long: only heads are hurried.
    idle = int(PATIENCE_S)
    server = uvicorn.Server(
        uvicorn.Config(_app, http=BoundedHeads, ws="none", lifespan="off", log_config=None, timeout_keep_alive=idle)
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
    """What connections and their first bytes wait at until somebody serves."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def served(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The listener of a server that waits long for a head."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", PATIENCE_S)
    with _served(listener):
        yield listener


def _connect(listener: socket.socket) -> socket.socket:
    connection = socket.create_connection(listener.getsockname())
    connection.settimeout(PATIENCE_S)
    return connection


def _answer(connection: socket.socket) -> bytes:
    """One answer's body; the head and the body may come apart."""
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


def _read(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:  # it closed while more was under way
        pass
    return received


def test_usual_requests_pass_many_on_one_connection_and_pipelined(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    with _connect(listener) as connection:
        connection.sendall(GET)  # there when the server comes, and so within the second whoever else wants the cores
        with _served(listener):
            assert _answer(connection) == b"0"
            for _ in range(2):
                sleep(0.6)  # three heads take longer than one may
                connection.sendall(GET)
                assert _answer(connection) == b"0"
            connection.sendall(GET * 5)
            received = b""
            while received.count(b"HTTP/1.1 200") < 5:
                chunk = connection.recv(65536)
                assert chunk
                received += chunk


def test_a_large_body_is_no_head(served: socket.socket) -> None:
    size = 20 * HEAD_BYTES
    with _connect(served) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        assert _answer(connection) == b"%d" % size


def test_a_body_may_take_longer_than_a_head(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    with _connect(listener) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
        with _served(listener):
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
def test_large_heads_are_refused(served: socket.socket, head: bytes, first: bytes) -> None:
    with _connect(served) as connection:
        if first:
            connection.sendall(first)
            assert _answer(connection) == b"0"
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head)
        received = _read(connection)
        assert received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")) or not received


def test_a_head_that_is_just_small_enough(served: socket.socket) -> None:
    with _connect(served) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (HEAD_BYTES - 100) + b"\r\n\r\n")
        assert _answer(connection) == b"0"


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_silent_connections_are_closed(served: socket.socket, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    began = monotonic()
    with _connect(served) as connection:
        connection.sendall(begun)
        assert _read(connection) == b""
    assert monotonic() - began > 0.9


def test_drops_do_not_prolong_it(served: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with _connect(served) as connection:
        connection.sendall(GET)
        assert _answer(connection) == b"0"
        monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
        with pytest.raises((BrokenPipeError, ConnectionResetError, ConnectionAbortedError)):
            _trickle(connection)  # for twenty seconds


def _trickle(connection: socket.socket) -> None:
    for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
        connection.sendall(bytes([byte]))
        sleep(0.02)
