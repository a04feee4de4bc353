"""The HTTP client of live attacks: which addresses it refuses, and how it treats answers of all kinds."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hardrank.audit_app.rank_only.http_client import (
    AddressRefusedError,
    AnswerTooLargeError,
    ApiClient,
    ClientOptions,
    SearchApiError,
    SearchApiTimeoutError,
    check_address,
)
from hardrank.audit_app.rank_only.http_system import HttpSystem, JsonApi, hardrank_api

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Scripted:
    """A server that answers each request with the next of `answers`; the last one is repeated."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def client(self, **options: float) -> ApiClient:
        limits = ClientOptions(**{"rate": 0, **options})  # type: ignore[arg-type]
        return ApiClient(address=check_address(self.url, owned_host=None), options=limits, sleep=lambda s: None)


@pytest.fixture
def server() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.requests.append((self.command, self.path, dict(self.headers), body))
            (script.answers.pop(0) if len(script.answers) > 1 else script.answers[0])(self)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{listener.server_address[1]}"
    yield script
    listener.shutdown()
    listener.server_close()
    thread.join()


def answer(status: int, body: object = "", **headers: str) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return send


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://search.example.org", "--owned-host search.example.org"),
        ("https://10.0.0.7/x", "--owned-host"),
        ("http://127.0.0.1.example.org", "--owned-host"),
        ("http://[2001:db8::1]:80", "--owned-host"),
        ("http://0.0.0.0:7860", "--owned-host"),
        ("ftp://127.0.0.1", "http://HOST"),
        ("file:///etc/passwd", "http://HOST"),
        ("127.0.0.1:7860", "http://HOST"),
        ("http://anna:secret@127.0.0.1", "environment variable"),
        ("http://127.0.0.1/?key=secret", "environment variable"),
        ("http://127.0.0.1:999999", "not a URL"),
    ],
)
def test_addresses_that_are_not_the_users_own_are_refused(url: str, word: str) -> None:
    with pytest.raises(AddressRefusedError, match=word) as refused:
        check_address(url, owned_host=None)
    assert "secret" not in str(refused.value)


def test_the_loopback_and_a_named_host_are_accepted() -> None:
    for url in ("http://127.0.0.1:7860", "http://127.8.9.1", "http://[::1]:80/", "http://localhost:7860/search"):
        assert check_address(url, owned_host=None).loopback
    mine = check_address("https://Search.Example.org/base/", owned_host="search.example.org")
    assert not mine.loopback
    assert mine.base == "/base"
    with pytest.raises(AddressRefusedError, match=r"other\.example\.org is not this machine"):
        check_address("https://other.example.org", owned_host="search.example.org")


def test_a_key_is_sent_to_other_machines_only_encrypted(server: Scripted) -> None:
    with pytest.raises(AddressRefusedError, match="use https"):
        ApiClient(address=check_address("http://a.example.org", owned_host="a.example.org"), key="k")
    ApiClient(address=check_address("https://a.example.org", owned_host="a.example.org"), key="k")
    server.answers = [answer(200, {})]
    ApiClient(address=check_address(server.url, owned_host=None), key="k").send("GET", "/x")
    assert server.requests[0][2]["Authorization"] == "Bearer k"


def test_redirects_are_not_followed(server: Scripted) -> None:
    server.answers = [answer(307, Location=f"{server.url}/elsewhere")]
    with pytest.raises(SearchApiError, match=r"redirect \(307\)"):
        server.client().send("POST", "/find")
    assert [path for _, path, _, _ in server.requests] == ["/find"]


def test_large_answers_are_refused(server: Scripted) -> None:
    server.answers = [answer(200, "x" * 5000)]
    assert len(server.client(largest_answer=5002).send("GET", "/")) == 5002
    with pytest.raises(AnswerTooLargeError, match="more than 5001 bytes"):
        server.client(largest_answer=5001).send("GET", "/")


DRIPS = {
    "nothing": b"",
    "status": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
    "one header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000,
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000,
    "body until the end": b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 1000,
}


@pytest.mark.parametrize("sent", DRIPS.values(), ids=list(DRIPS))
def test_a_server_that_sends_byte_by_byte_is_left_at_the_time_limit(sent: bytes, server: Scripted) -> None:
    """Each byte comes in time, the whole would take five seconds or more."""
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        for byte in sent:
            if over.wait(0.005):
                return
            with suppress(OSError):
                handler.wfile.write(bytes([byte]))
        over.wait(5)

    server.answers = [drip]
    began = time.monotonic()
    with pytest.raises(SearchApiTimeoutError, match=r"within 0\.1 s"):
        server.client(timeout_s=0.1).send("GET", "/")
    assert time.monotonic() - began < 3
    over.set()


def test_a_server_that_does_not_read_is_left_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = check_address(f"http://127.0.0.1:{deaf.getsockname()[1]}", owned_host=None)
        client = ApiClient(address=address, options=ClientOptions(timeout_s=0.1))
        with pytest.raises(SearchApiTimeoutError, match=r"within 0\.1 s"):
            client.send("POST", "/", body=bytes(2**25))


def test_a_busy_server_is_asked_again_after_the_time_it_names(server: Scripted) -> None:
    slept: list[float] = []
    waits = ("7", "900", "nan", "Fri, 31 Dec 1999 23:59:59 GMT")
    server.answers = [*(answer(503, Retry_After=wait) for wait in waits), answer(200, {"a": 1})]
    client = server.client()
    client.sleep = slept.append
    assert json.loads(client.send("POST", "/", queries=1)) == {"a": 1}
    assert slept == [7, 60, 0.1, 1]
    server.answers = [answer(429)]
    with pytest.raises(SearchApiError, match="status 429"):
        server.client(attempts=3).send("POST", "/")
    assert len(server.requests) == 8


def test_the_rate_of_queries_is_limited(server: Scripted) -> None:
    server.answers = [answer(200, {})]
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    client = server.client(rate=4)
    client.clock, client.sleep = lambda: now[0], sleep
    for queries in (1, 8, 1):
        client.send("POST", "/", queries=queries)
    assert slept == [0.25, 2.0]


def test_any_json_api_can_be_asked(server: Scripted) -> None:
    server.answers = [answer(200, {"hits": [{"name": "a"}, {"name": 7}, {"name": "c"}]})]
    adapter = JsonApi(size=9, most_results=3, path="/find?n={k}", ids="hits.*.name")
    system = HttpSystem(client=server.client(), adapter=adapter)
    assert system.search([b"one", b"two"], 2) == [["a", "7"]] * 2
    assert [(method, path, body) for method, path, _, body in server.requests] == [
        ("POST", "/find?n=2", b"one"),
        ("POST", "/find?n=2", b"two"),
    ]
    others: list[object] = [{"hits": 3}, {"hits": [{"other": 1}]}, [], {"hits": [{"name": None}]}]
    for wrong in others:
        server.answers = [answer(200, wrong)]
        with pytest.raises(SearchApiError, match="name"):
            system.search([b"one"], 2)


def test_what_is_no_server_of_hardrank_is_named(server: Scripted) -> None:
    server.answers = [answer(200, {"other": 1})]
    with pytest.raises(SearchApiError, match="no models"):
        hardrank_api(server.client(), model=None)
    server.answers = [answer(404, {"detail": "nothing here"})]
    with pytest.raises(SearchApiError, match=r"status 404.*nothing here"):
        hardrank_api(server.client(), model=None)
    with pytest.raises(SearchApiError, match="cannot be reached"):
        ApiClient(address=check_address("http://127.0.0.1:9", owned_host=None)).send("GET", "/")
