"""Hostile clients of the real server: nobody can keep others out, fill the disk, or fill the log."""

import json
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from hardrank.serving.engine import Engine
from tests.serving.process import ServerProcess, running
from tests.serving.raw_clients import read_all
from tests.serving.served import make_source, paint
from tests.waiting import PATIENCE_S, until

MIB = 2**20


@pytest.fixture(scope="module")
def source(benign_bundle: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """BUNDLE=INDEX of a small gallery."""
    return make_source(tmp_path_factory.mktemp("index"), benign_bundle, engine, paint(5))


def connect(server: ServerProcess, address: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), source_address=(address, 0))
    connection.settimeout(PATIENCE_S)
    return connection


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        connection.settimeout(PATIENCE_S)


def takes_a_byte(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except (BrokenPipeError, ConnectionResetError):
        return False
    return is_open(connection)


def log(server: ServerProcess) -> str:
    """Stop the server and return what it logged."""
    assert server.stop(signal.SIGTERM) == 0
    assert server.process.stdout is not None
    return server.process.stdout.read()


def form(parts: Sequence[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, content in parts:
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + b"--x--\r\n"


def post(path: str, body: bytes, *, length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def upload(client: httpx.Client, size: int) -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": ("a.png", bytes(size), "image/png")})


def test_one_address_cannot_take_all_connections(source: str) -> None:
    with (
        running([source], "--no-page", "--connections=40", "--connections-per-address=10") as server,
        ExitStack() as stack,
    ):
        held = [stack.enter_context(connect(server, "127.0.0.5")) for _ in range(60)]
        refused = [read_all(connection) for connection in held[10:]]
        assert all(answer.startswith(b"HTTP/1.1 429") for answer in refused)
        assert server.client.get("/readyz").status_code == 200
        for connection in held:
            connection.close()
        with connect(server, "127.0.0.5") as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_connections_in_all_are_limited(source: str) -> None:
    with running([source], "--no-page", "--connections=8") as server, ExitStack() as stack:
        for number in range(8):
            stack.enter_context(connect(server, f"127.0.0.{10 + number}"))
        with connect(server, "127.0.0.30") as connection:
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 503")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 503


@pytest.mark.parametrize(("options", "refused"), [([], 3), (["--proxies=127.0.0.1"], 0)])
def test_visitors_behind_a_proxy_have_limits_of_their_own_only_if_it_is_named(
    source: str, options: list[str], refused: int
) -> None:
    with running([source], "--no-page", "--rate=0.001", "--burst=4", *options) as server:
        visitors = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(7)]
        answers = [server.client.get("/v1/stats", headers=headers) for headers in visitors]
    assert [answer.status_code for answer in answers] == [200] * (7 - refused) + [429] * refused


def test_idle_connections_cannot_use_up_the_file_descriptors(source: str) -> None:
    """Two hundred idle connections to a server that may open 150 files."""
    with running([source], "--no-page", limit_files=150) as server, ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(server, "127.0.0.5"))
        assert server.client.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server `small` keeps uploads."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def small(source: str, disk: Path) -> Iterator[ServerProcess]:
    """A server that keeps few bytes in memory, at another loopback address than the usual one."""
    limits = (f"--held-bytes={40 * MIB}", f"--image-bytes={9 * MIB}")
    with running([source], "--host=127.0.0.2", *limits, environment={"TMPDIR": str(disk)}) as server:
        yield server


def test_slow_bodies_end_in_time(source: str) -> None:
    paths = ["/gradio_api/upload", "/gradio_api/queue/join", "/login", "/nothing", "/v1/search"]
    with running([source], "--body-seconds=1") as server, ExitStack() as stack:
        slow = {path: stack.enter_context(connect(server)) for path in paths}
        for path, connection in slow.items():
            connection.sendall(post(path, b"", length=10_000))
        began = time.monotonic()
        while slow and time.monotonic() - began < PATIENCE_S:
            slow = {path: connection for path, connection in slow.items() if takes_a_byte(connection)}
            time.sleep(0.1)
        assert not slow


def client_at(server: ServerProcess, address: str) -> httpx.Client:
    """A client with an address of its own."""
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=server.url, transport=transport, timeout=PATIENCE_S)


def large_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > MIB}


def test_aborted_uploads_and_other_fields_leave_no_file_and_no_debt(small: ServerProcess, disk: Path) -> None:
    before, address = large_files(disk), "127.0.0.6"
    for _ in range(8):
        with connect(small, address) as connection:
            connection.sendall(post("/gradio_api/upload", form([("files", bytes(9 * MIB))])[:-50]))
            connection.sendall(b"")
    other = {"Content-Type": "multipart/form-data; boundary=x"}
    with client_at(small, address) as client:
        for _ in range(8):
            body = form([("other", bytes(9 * MIB))])
            assert client.post("/gradio_api/upload", content=body, headers=other).status_code == 422
        until(lambda: upload(client, 9 * MIB).status_code == 200)
    assert len(large_files(disk) - before) == 1


def test_uploads_of_one_address_cannot_shut_out_another(small: ServerProcess) -> None:
    with client_at(small, "127.0.0.5") as other:
        for _ in range(10):
            assert upload(other, 9 * MIB).status_code == 200
    with client_at(small, "127.0.0.7") as client:
        answers = [upload(client, 9 * MIB) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    [name] = answers[-1].json()
    assert re.fullmatch(r"[A-Za-z0-9_\-]{22}", name), "the answer shows no path of the server"


def test_the_server_answers_at_the_address_that_it_announces(small: ServerProcess) -> None:
    assert urlsplit(small.url).hostname == "127.0.0.2"
    assert small.client.get("/").status_code == 200
    assert small.client.get("/healthz", headers={"Host": "example.com"}).status_code == 421
    assert small.client.head("/healthz").status_code == 200


def test_invalid_calls_and_sigterm_with_an_open_page_log_no_traceback(source: str) -> None:
    with running([source]) as server:
        calls: list[dict[str, Any]] = [
            {"fn_index": 99_999, "session_hash": "abc", "data": []},
            {"fn_index": 0, "session_hash": "abc", "data": ["too", "many", "values", "for", "it", "all"]},
            {"fn_index": 1, "session_hash": "abc", "data": [{"path": "n" * 22}, 1, 2, 3, 4]},
        ]
        for body in calls:
            answer = server.client.post("/gradio_api/queue/join", json=body)
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"
            assert len(answer.content) < 500
        for query in ("?session_hash=unknown", ""):
            answer = server.client.get(f"/gradio_api/queue/data{query}")
            assert answer.text == 'data: {"msg": "close_stream", "event_id": null}\n\n'
        config = server.client.get("/config").json()
        [load] = [one["id"] for one in config["dependencies"] if any(event == "load" for _, event in one["targets"])]
        body = {"fn_index": load, "session_hash": "abc", "data": [""]}
        server.client.post("/gradio_api/queue/join", json=body).raise_for_status()
        with connect(server) as page, connect(server) as stream:
            page.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stream.sendall(b"GET /gradio_api/queue/data?session_hash=abc HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert page.recv(1000)
            assert stream.recv(1000)
            logged = log(server)
        assert "Traceback" not in logged
        assert len(logged.splitlines()) <= len(calls)
