"""Large responses that clients do not take are counted, and refused beyond the limit."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from hardrank.serving.api.app import _reads
from hardrank.serving.api.auth import Keyring
from hardrank.serving.api.bodies import FormError, HeldBytes
from hardrank.serving.api.middleware import MiddlewareOptions, RequestMiddleware
from hardrank.serving.api.problems import install_handlers
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.metrics import Metrics
from hardrank.serving.settings import Access, Limits, Settings
from tests.serving.process import ROOT

MIB = 2**20
BODY = bytes(range(256)) * (12 * MIB // 256)


class Client:
    """A client that takes its response when it is told to."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.body":
            await self.reads.wait()

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


@pytest.fixture
def responses() -> HeldBytes:
    return HeldBytes(Limits(body_bytes=16 * MIB, held_bytes=30 * MIB), "downloads")


def _wrap(app: ASGIApp, *, responses: HeldBytes | None = None, reads: RateLimit | None = None) -> RequestMiddleware:
    """The middleware around an app, with no limits but those given."""
    options = MiddlewareOptions(
        metrics=Metrics(),
        keyring=Keyring(),
        rate=RateLimit(rate=0, burst=1),
        reads=reads or RateLimit(rate=0, burst=1),
        responses=responses or HeldBytes(Limits(), "downloads"),
    )
    return RequestMiddleware(app, options)


@pytest.fixture
def middleware(responses: HeldBytes) -> RequestMiddleware:
    return _wrap(Response(BODY), responses=responses)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _request(
    middleware: RequestMiddleware,
    client: Client,
    address: str,
    path: str = "/a",
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": list(headers),
        "client": (address, 1),
    }
    await middleware(scope, _nothing, client.send)


@pytest.mark.anyio
async def test_responses_that_are_not_taken_are_limited_by_address_and_in_all(
    middleware: RequestMiddleware, responses: HeldBytes
) -> None:
    slow = {address: Client() for address in ("192.0.2.1", "192.0.2.2")}
    tasks = [asyncio.create_task(_request(middleware, client, address)) for address, client in slow.items()]
    await asyncio.sleep(0)
    for address in ("192.0.2.1", "192.0.2.3"):  # beyond the share of the first; beyond the total
        refused = Client()
        refused.reads.set()
        await _request(middleware, refused, address)
        assert refused.status == 429
    slow["192.0.2.1"].reads.set()
    await tasks[0]
    again = Client()
    again.reads.set()
    await _request(middleware, again, "192.0.2.3")
    assert [again.status, again.body == BODY] == [200, True]
    assert [slow["192.0.2.1"].status, slow["192.0.2.1"].body == BODY] == [200, True]
    slow["192.0.2.2"].reads.set()
    await tasks[1]
    assert responses.total == 0


def test_a_refused_body_is_freed_at_once() -> None:
    """Not only when the garbage collector runs: a large body hardly counts there."""
    refused: list[weakref.ref[Any]] = []

    class Body(bytearray):
        """Bytes that can be referenced weakly."""

    async def fail(request: Request) -> Response:
        body = Body(1)
        refused.append(weakref.ref(body))
        raise FormError("no")

    app = FastAPI(routes=[Route("/v1/a", fail)])
    install_handlers(app)
    gc.collect()
    gc.disable()
    try:
        assert _status(_wrap(app), "/v1/a") == 422
        assert refused[0]() is None
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_a_client_that_disconnects_leaves_nothing_counted(
    middleware: RequestMiddleware, responses: HeldBytes
) -> None:
    task = asyncio.create_task(_request(middleware, Client(), "192.0.2.1"))
    await asyncio.sleep(0)
    assert responses.total == len(BODY)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert responses.total == 0


def _status(
    middleware: RequestMiddleware, path: str, *, address: str = "192.0.2.1", headers: Sequence[tuple[bytes, bytes]] = ()
) -> int:
    client = Client()
    client.reads.set()
    asyncio.run(_request(middleware, client, address, path, headers))
    return client.status


@pytest.mark.parametrize("path", ["/login", "/gradio_api/upload", "/v1/search", "/nothing"])
def test_long_content_types_are_refused_before_anything_parses_them(path: str) -> None:
    """Which takes time in proportion to the square of their length, on the event loop."""
    middleware = _wrap(Response(b"small"))
    kind = b'multipart/form-data; boundary=x; a="'
    assert _status(middleware, path, headers=[(b"content-type", kind + b";" * 400)]) == 200
    long = (b"content-type", kind + b";" * 512)
    assert _status(middleware, path, headers=[long]) == 431
    assert _status(middleware, path, headers=[long, (b"content-type", b"image/png")]) == 431


@pytest.mark.parametrize(("access", "rate", "burst"), [(Access(), 400, 1000), (Access(rate=200, burst=500), 800, 2000)])
def test_the_limit_of_reads_of_the_page_is_the_documented_one(access: Access, rate: float, burst: int) -> None:
    reads = _reads(Settings(access=access))
    assert (reads.rate, reads.burst) == (rate, burst)
    [row] = [line for line in (ROOT / "docs/api.md").read_text("utf-8").splitlines() if "reads of the page" in line]
    assert "four times `--rate` and `--burst`, at least 400 per second and 1000; none with `--rate 0`" in row


def test_reads_of_the_page_are_limited_by_address() -> None:
    middleware = _wrap(Response(b"small"), reads=RateLimit(rate=1, burst=45, clock=lambda: 0.0))
    assert [_status(middleware, "/") for _ in range(3)] == [200, 200, 429]
    assert [_status(middleware, "/assets/a.js") for _ in range(6)] == [200] * 5 + [429]
    for path in ("/healthz", "/readyz", "/metrics", "/v1/stats"):
        assert _status(middleware, path) == 200
    assert _status(middleware, "/config", address="192.0.2.2") == 200
