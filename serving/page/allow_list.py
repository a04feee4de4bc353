"""An allow-list in front of Gradio: only the routes and files that the page needs are reachable.

By default Gradio also fetches URLs for callers, runs functions outside its queue and accepts unlimited uploads. Every
request that is not listed here is answered 404.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardrank.serving.page.upload_quota import UploadQuota, UploadQuotaError, measure_uploads

_MIB: Final = 2**20
_MAX_CALL_BYTES: Final = _MIB
"""Of a call of one of the page's functions: options and the path of an upload."""
_RETRY_S: Final = 60
"""Seconds after which some uploads may have been deleted."""

_FILE: Final = "/gradio_api/file="
_UPLOAD: Final = "/gradio_api/upload"
_CALL: Final = "/gradio_api/queue/join"

_READ: Final = frozenset(
    {
        "/",
        "/config",
        "/favicon.ico",
        "/gradio_api/app_id",
        "/gradio_api/login_check",
        "/gradio_api/queue/data",
        "/gradio_api/startup-events",
        "/gradio_api/upload_progress",
        "/gradio_api/user",
        "/logout",
        "/manifest.json",
        "/robots.txt",
        "/theme.css",
    }
)
_READ_PREFIXES: Final = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
_WRITE: Final = frozenset({_CALL, _UPLOAD, "/gradio_api/cancel", "/gradio_api/reset", "/login"})


class _RefusedError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class AllowListMiddleware:
    """ASGI middleware around the Gradio app."""

    def __init__(self, app: ASGIApp, *, folder: Path, upload_bytes: int, kept_bytes: int, kept_s: float) -> None:
        """Wrap `app`.

        Args:
            app: The Gradio app.
            folder: Where Gradio keeps uploads, for `kept_s` seconds; the only files that can be read.
            upload_bytes: Limit of one upload.
            kept_bytes: Limit of all uploads together.
            kept_s: Age in seconds at which Gradio deletes an upload.
        """
        self._app = app
        self._folder = folder
        self._upload_bytes = upload_bytes
        self._quota = UploadQuota(partial(measure_uploads, folder, age_s=kept_s), limit=kept_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def tracked_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._forward(scope, receive, tracked_send)
        except _RefusedError as error:
            if started:
                raise
            await _refusal(error, scope)(scope, receive, send)
        except UploadQuotaError as error:
            await _refusal(_RefusedError(429, str(error)), scope)(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and call the app with it; raises `_RefusedError` or `UploadQuotaError`."""
        if scope["type"] != "http":
            raise _RefusedError(404, "Not found.")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] in {"GET", "HEAD"} and self._is_readable(path):
            await self._app(scope, receive, send)
            return
        if scope["method"] != "POST" or path not in _WRITE:
            raise _RefusedError(404, "Not found.")
        limit = self._upload_bytes if path == _UPLOAD else _MAX_CALL_BYTES
        announced = _content_length(scope)
        if announced is not None and announced > limit:
            raise _too_large(limit)
        bounded = _bounded(receive, limit)
        if path == _CALL:
            bounded = _replay(self._checked_call(await _body(bounded)), receive)
        size = limit if announced is None else announced
        async with self._quota.reserve(size) if path == _UPLOAD else nullcontext():
            await self._app(scope, bounded, send)

    def _is_readable(self, path: str) -> bool:
        if path.startswith(_FILE):
            return self._is_upload(path.removeprefix(_FILE))
        return path in _READ or path.startswith(_READ_PREFIXES)

    def _is_upload(self, path: object) -> bool:
        """Whether `path` is inside the folder of uploads; URLs are not."""
        if not isinstance(path, str):
            return False
        parts = PurePath(path)
        return self._folder in parts.parents and ".." not in parts.parts

    def _checked_call(self, body: bytes) -> bytes:
        """Return the call as new JSON, so that Gradio parses what was checked here.

        Every file it names must be an upload: Gradio would fetch a URL.
        """
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, "The request body is not valid JSON.") from error
        if any(not self._is_upload(path) for path in _paths(content)):
            raise _RefusedError(400, "The request names a file that was not uploaded here.")
        return json.dumps(content).encode()


def _paths(content: Any) -> Iterator[Any]:
    """Every value of a key `path` in nested JSON."""
    rest = [content]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def _content_length(scope: Scope) -> int | None:
    text = Headers(scope=scope).get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _RefusedError(400, "The Content-Length header is not a number.")
    return int(text)


def _too_large(limit: int) -> _RefusedError:
    return _RefusedError(413, f"The request body exceeds the limit of {limit} bytes.")


def _bounded(receive: Receive, limit: int) -> Receive:
    """Receive at most `limit` bytes, whatever the Content-Length says."""
    left = limit

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(limit)
        return message

    return counted


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _RefusedError(400, "The request ended early.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receive `body` first, then whatever follows."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay


def _refusal(error: _RefusedError, scope: Scope) -> ASGIApp:
    """Return a response in the format of the HTTP API's errors."""
    problem = {
        "type": "about:blank",
        "title": "Request refused",
        "status": error.status,
        "detail": error.detail,
        "request_id": scope.get("state", {}).get("id", ""),
    }
    headers = {"Retry-After": str(_RETRY_S)} if error.status == 429 else None
    return JSONResponse(problem, status_code=error.status, headers=headers, media_type="application/problem+json")
