"""Middleware for every request: request id, host check, security headers, metrics, and an answer to any error."""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardrank.serving.api.auth import Keyring, network_of
from hardrank.serving.api.bodies import HeldBytes
from hardrank.serving.api.problems import (
    HeaderTooLargeError,
    MisdirectedError,
    ProblemType,
    problem_type_of,
    response_to,
)
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.metrics import Metrics
from hardrank.serving.search.admission import OverloadedError

API: Final = "/v1/"
DOCS: Final = "/docs"
_DATA_ROUTES: Final = ("/healthz", "/readyz", "/metrics", "/openapi.json")
_UNCOUNTED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_COSTS: Final[Mapping[str, int]] = {"/": 20, "/config": 20, "/openapi.json": 20}
"""Tokens for a response that takes milliseconds to make; any other costs 1, like a file of the page."""
_LONGEST_CONTENT_TYPE: Final = 512
"""Bytes. Parsing takes time quadratic in the length."""
_LARGE: Final = 2**20
"""Larger responses, in bytes, are counted until the client has received them."""
_PIECE: Final = 2**18
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""For data: a browser that displays it neither runs nor loads anything."""
_PAGE_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""For pages: they load nothing from other hosts. Gradio needs inline scripts."""


def _headers(policy: str, **more: str) -> Mapping[bytes, bytes]:
    security = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "x-frame-options": "SAMEORIGIN",
        "content-security-policy": policy,
        **more,
    }
    return {name.encode(): value.encode() for name, value in security.items()}


_PAGE_HEADERS: Final = _headers(_PAGE_POLICY)
_DATA_HEADERS: Final = _headers(_DATA_POLICY)
_API_HEADERS: Final = _headers(
    _DATA_POLICY, **{"cache-control": "no-store", "cross-origin-resource-policy": "same-origin"}
)


@dataclass(frozen=True, kw_only=True)
class MiddlewareOptions:
    """Options of `RequestMiddleware`."""

    metrics: Metrics
    keyring: Keyring
    rate: RateLimit
    """Limits the POST requests to the page, and the requests to the API."""
    reads: RateLimit
    """Limits the GET requests to the page. Opening it takes about a hundred."""
    responses: HeldBytes
    """Limits the bytes of large responses that clients have not received yet."""
    hosts: Sequence[str] = ()
    """Host names that the server accepts; none: any."""


class RequestMiddleware:
    """ASGI middleware: request id, host check, page rate limit, response limit, security headers, metrics, errors."""

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
        sender = _ResponseSender(send, scope, request_id, self._options.responses)
        try:
            self._check_host(headers.get(b"host", b""))
            self._check_content_type(scope)
            self._check_rate(scope)
            await self._app(scope, receive, sender)
        except Exception as error:
            if sender.status:  # part of the response is sent; only closing the connection reports the error
                raise
            refused = sender.refusal or error
            scope["state"]["problem_type"] = problem_type_of(refused)
            await response_to(refused, request_id)(scope, receive, sender)
        finally:
            sender.end()
        self._count(scope, sender.status, perf_counter() - began)

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

    def _check_content_type(self, scope: Scope) -> None:
        # If there are several such headers, parsers differ in which one they use, so all are checked.
        if any(name == b"content-type" and len(value) > _LONGEST_CONTENT_TYPE for name, value in scope["headers"]):
            raise HeaderTooLargeError(
                f"The header Content-Type exceeds {_LONGEST_CONTENT_TYPE} bytes; send a shorter one."
            )

    def _check_rate(self, scope: Scope) -> None:
        """Limit the requests to the page. Asking the keyring also makes it notice a changed key file.

        The API does both itself.
        """
        path = route_path(scope)
        if path.startswith(API):
            return
        caller = self._options.keyring.caller(None, address_of(scope))
        if scope["method"] == "POST":
            self._options.rate.take(caller.name)
        elif path not in _UNCOUNTED:
            self._options.reads.take(caller.name, _COSTS.get(path, 1))

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        problem_type: ProblemType | None = scope["state"].get("problem_type")
        if problem_type is not None and problem_type.rejection is not None:
            self._options.metrics.rejected(problem_type.rejection)
        self._options.metrics.request(method=_method(scope), route=route, status=status, seconds=seconds)


class _ResponseSender:
    """Adds headers to the response, records its status, and refuses it if too many large ones are not taken yet."""

    def __init__(
        self, send: Callable[[Message], Awaitable[None]], scope: Scope, request_id: str, responses: HeldBytes
    ) -> None:
        self._send = send
        self._path = route_path(scope)
        self._address = network_of(address_of(scope))
        self._id = request_id
        self._responses = responses
        self._held = 0
        self.status = 0
        self.refusal: OverloadedError | None = None
        """Why the response was not sent. The app may raise a different error because of it."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            given = dict(message["headers"])
            self._hold(int(given.get(b"content-length", 0)))
            self.status = message["status"]
            added = {b"x-request-id": self._id.encode(), **_added_headers(self._path)}
            more = [(name, value) for name, value in added.items() if name not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        elif len(message.get("body", b"")) > _PIECE:
            message = await self._send_all_but_last_piece(message)
        await self._send(message)

    def end(self) -> None:
        """Stop counting the response."""
        self._responses.add(-self._held, self._address)
        self._held = 0

    def _hold(self, size: int) -> None:
        if size <= _LARGE:
            return
        self._held = size
        self._responses.add(size, self._address)
        try:
            self._responses.check(self._address)
        except OverloadedError as error:
            self.end()
            # A new error, because the traceback of this one keeps the response in memory.
            self.refusal = OverloadedError(str(error))
            raise

    async def _send_all_but_last_piece(self, message: Message) -> Message:
        """Send a large body as the client takes it, and return its last piece."""
        body = memoryview(message["body"])
        last = (len(body) - 1) // _PIECE * _PIECE
        for start in range(0, last, _PIECE):
            piece = bytes(body[start : start + _PIECE])
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        return {**message, "body": bytes(body[last:])}


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


def _added_headers(path: str) -> Mapping[bytes, bytes]:
    """Return the headers of a response that does not have them itself."""
    if path.startswith(API):
        return _API_HEADERS
    return _DATA_HEADERS if path in _DATA_ROUTES else _PAGE_HEADERS


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
