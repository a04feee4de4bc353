"""What every request and every answer go through, whatever is asked."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardrank.serving.api.auth import Keyring, RateLimit
from hardrank.serving.api.problems import MisdirectedError, answer_of, kind_of
from hardrank.serving.metrics import Metrics

API: Final = "/v1/"
DOCS: Final = "/docs"
_ENDLESS: Final = "/gradio_api/heartbeat/"
"""The page holds this stream open as long as somebody looks at it."""
_PLAIN_ROUTES: Final = ("/healthz", "/readyz", "/metrics", "/openapi.json")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "SAMEORIGIN"),
)
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""For answers that are data: a browser that is shown one runs and loads nothing."""
_OWN: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""For pages: whatever they do, a browser asks no other host for anything. Gradio's page needs inline scripts."""


@dataclass(frozen=True, kw_only=True)
class EnvelopeOptions:
    """What the envelope needs to know."""

    metrics: Metrics
    keyring: Keyring
    rate: RateLimit
    hosts: Sequence[str] = ()
    """Names under which the server may be reached; none: any."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is about to end: streams that have no end of their own are cut then."""


class Envelope:
    """ASGI middleware: request ids, host check, security headers, counting, and an answer whatever happens."""

    def __init__(self, app: ASGIApp, options: EnvelopeOptions) -> None:
        self._app = app
        self._options = options
        self._hosts = {host.lower() for host in options.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see that it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["id"] = request_id
        sent = _Sent(send, scope["path"], request_id)
        try:
            self._check_host(headers.get(b"host", b""))
            self._check_rate(scope)
            await self._carry_out(scope, receive, sent)
        except Exception as error:
            if sent.status:  # half an answer is out; only closing the connection tells the caller
                raise
            await self._answer(error, request_id)(scope, receive, sent)
        self._count(scope, sent.status, perf_counter() - began)

    async def _carry_out(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(_ENDLESS):
            await self._app(scope, receive, send)
            return
        stream = asyncio.ensure_future(self._app(scope, receive, send))
        ending = asyncio.create_task(self._options.ending.wait())
        try:
            await asyncio.wait({stream, ending}, return_when=asyncio.FIRST_COMPLETED)
            if stream.done():
                stream.result()
            else:
                await send({"type": "http.response.body", "body": b""})
        finally:
            ending.cancel()
            stream.cancel()

    def _answer(self, error: Exception, request_id: str) -> Response:
        if (reason := kind_of(error).rejection) is not None:
            self._options.metrics.rejected(reason)
        return answer_of(error, request_id)

    def _check_host(self, header: bytes) -> None:
        """Refuse other hosts' names: with them, a page on the web could reach a server on the loopback."""
        if not self._hosts:
            return
        name = _without_port(header.decode("latin-1").strip().lower())
        if name not in self._hosts:
            raise MisdirectedError("This server does not answer to that name (Host); whoever runs it can allow it.")

    def _check_rate(self, scope: Scope) -> None:
        """Count what is posted to the page; the API counts by key."""
        if scope["method"] == "POST" and not scope["path"].startswith(API):
            self._options.rate.take(self._options.keyring.caller(None, address_of(scope)).name)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        if (error := scope["state"].get("error")) is not None and (reason := kind_of(error).rejection) is not None:
            self._options.metrics.rejected(reason)
        self._options.metrics.request(method=_method(scope), route=route, status=status, seconds=seconds)


class _Sent:
    """Adds headers to the answer, and remembers its status."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], path: str, request_id: str) -> None:
        self._send = send
        self._path = path
        self._id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._id
            for name, value in _HEADERS:
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", _policy(self._path))
            if self._path.startswith(API):
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        await self._send(message)


def address_of(scope: Scope) -> str:
    """Give the address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _policy(path: str) -> str:
    return _NOTHING if path.startswith(API) or path in _PLAIN_ROUTES else _OWN


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else secrets.token_hex(8)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _method(scope: Scope) -> str:
    """Methods are the caller's words: only the known ones become labels, so that nobody makes a million of them."""
    method: str = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} else "other"
