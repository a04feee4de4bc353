"""Middleware for every request: request id, host check, security headers, metrics, and an answer to any error."""

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardrank.serving.api.auth import Keyring
from hardrank.serving.api.problems import MisdirectedError, problem_type_of, response_to
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.metrics import Metrics

API: Final = "/v1/"
DOCS: Final = "/docs"
_DATA_ROUTES: Final = ("/healthz", "/readyz", "/metrics", "/openapi.json")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "SAMEORIGIN"),
)
_DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""For data: a browser that displays it neither runs nor loads anything."""
_PAGE_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""For pages: they load nothing from other hosts. Gradio needs inline scripts."""


@dataclass(frozen=True, kw_only=True)
class MiddlewareOptions:
    """Options of `RequestMiddleware`."""

    metrics: Metrics
    keyring: Keyring
    rate: RateLimit
    hosts: Sequence[str] = ()
    """Host names that the server accepts; none: any."""


class RequestMiddleware:
    """ASGI middleware: request id, host check, page rate limit, security headers, metrics, answers to errors."""

    def __init__(self, app: ASGIApp, options: MiddlewareOptions) -> None:
        self._app = app
        self._options = options
        self._hosts = {host.lower() for host in options.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["id"] = request_id
        sender = _HeaderSender(send, route_path(scope), request_id)
        try:
            self._check_host(headers.get(b"host", b""))
            self._check_rate(scope)
            await self._app(scope, receive, sender)
        except Exception as error:
            if sender.status:  # part of the response is sent; only closing the connection reports the error
                raise
            await self._error_response(error, request_id)(scope, receive, sender)
        self._count(scope, sender.status, perf_counter() - began)

    def _error_response(self, error: Exception, request_id: str) -> Response:
        self._count_rejection(error)
        return response_to(error, request_id)

    def _count_rejection(self, error: Exception) -> None:
        if (reason := problem_type_of(error).rejection) is not None:
            self._options.metrics.rejected(reason)

    def _check_host(self, header: bytes) -> None:
        """Reject unknown host names. This prevents DNS rebinding: a web page reaching a server on the loopback."""
        if not self._hosts:
            return
        name = _without_port(header.decode("latin-1").strip().lower())
        if name not in self._hosts:
            raise MisdirectedError(
                "This server does not accept the host name in the Host header; its operator can add it with "
                "--allowed-hosts."
            )

    def _check_rate(self, scope: Scope) -> None:
        """Limit what is posted to the page; the API limits by key."""
        if scope["method"] == "POST" and not route_path(scope).startswith(API):
            self._options.rate.take(self._options.keyring.caller(None, address_of(scope)).name)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        if (error := scope["state"].get("error")) is not None and (
            reason := problem_type_of(error).rejection
        ) is not None:
            self._options.metrics.rejected(reason)
        self._options.metrics.request(method=_method(scope), route=route, status=status, seconds=seconds)


class _HeaderSender:
    """Adds headers to the response and records its status."""

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
            for name, value in _SECURITY_HEADERS:
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", _policy(self._path))
            if self._path.startswith(API):
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        await self._send(message)


def route_path(scope: Scope) -> str:
    """Return the path of a request without the path below which a reverse proxy serves the server."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path.removeprefix(root)
    return path


def address_of(scope: Scope) -> str:
    """Return the client address of a request."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _policy(path: str) -> str:
    return _DATA_POLICY if path.startswith(API) or path in _DATA_ROUTES else _PAGE_POLICY


def _request_id(header: bytes) -> str:
    text = header.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else secrets.token_hex(8)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _method(scope: Scope) -> str:
    """Return the method as a metrics label. Unknown methods share one, so that callers cannot create labels."""
    method: str = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} else "other"
