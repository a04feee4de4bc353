"""What reaches Gradio: the routes that the page uses, and of them nothing that makes the server fetch or read at will.

Gradio serves more than a page needs: it fetches addresses for callers, runs functions past its queue, and lets anybody
fill the disk. Here everything but an allow-list is answered 404.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardrank.serving.page.upload_quota import NoRoomError, Room

_MIB: Final = 2**20
_LARGEST_CALL: Final = _MIB
"""Bytes of a call of one of the page's functions: options and the path of an upload."""
_RETRY_S: Final = 60
"""Seconds after which uploads that were kept may have gone."""

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
_READ_BELOW: Final = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
_WRITE: Final = frozenset({_CALL, _UPLOAD, "/gradio_api/cancel", "/gradio_api/reset", "/login"})


class _RefusedError(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class PageGuard:
    """ASGI middleware around the Gradio app."""

    def __init__(self, app: ASGIApp, *, folder: Path, upload_bytes: int, kept_bytes: int, kept_s: float) -> None:
        """Let through files below `folder`, where Gradio keeps uploads for `kept_s` seconds.

        One upload has at most `upload_bytes`, all that are kept at most `kept_bytes`.
        """
        self._app = app
        self._folder = folder
        self._upload_bytes = upload_bytes
        self._room = Room(folder, limit=kept_bytes, age_s=kept_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        began = False

        async def send_noting(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
            await send(message)

        try:
            await self._app(scope, await self._checked(scope, receive), send_noting)
        except _RefusedError as error:
            if began:
                raise
            await _refusal(error, scope)(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """Give what the app may receive; raises `_RefusedError`."""
        if scope["type"] != "http":
            raise _RefusedError(404, "There is nothing at this address.")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] in {"GET", "HEAD"} and self._is_readable(path):
            return receive
        if scope["method"] != "POST" or path not in _WRITE:
            raise _RefusedError(404, "There is nothing at this address.")
        limit = self._upload_bytes if path == _UPLOAD else _LARGEST_CALL
        announced = _length(scope)
        if announced is not None and announced > limit:
            raise _RefusedError(413, f"The request has more than {limit} bytes; send less.")
        if path == _UPLOAD:
            await self._admit(limit if announced is None else announced)
        bounded = _bounded(receive, limit)
        return _replay(self._call(await _body(bounded)), receive) if path == _CALL else bounded

    async def _admit(self, size: int) -> None:
        try:
            await self._room.admit(size)
        except NoRoomError as error:
            raise _RefusedError(429, str(error)) from error

    def _is_readable(self, path: str) -> bool:
        if path.startswith(_FILE):
            return self._is_upload(path.removeprefix(_FILE))
        return path in _READ or path.startswith(_READ_BELOW)

    def _is_upload(self, path: object) -> bool:
        """Whether `path` lies below the folder of uploads; an address of the web does not."""
        if not isinstance(path, str):
            return False
        parts = PurePath(path)
        return self._folder in parts.parents and ".." not in parts.parts

    def _call(self, body: bytes) -> bytes:
        """Check a call: a file that it names must be an upload, for Gradio would fetch an address of the web.

        What is passed on is written anew, so that both sides read the same.
        """
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, "The request is no JSON.") from error
        if any(not self._is_upload(path) for path in _paths(content)):
            raise _RefusedError(400, "The request names a file that was not uploaded here.")
        return json.dumps(content).encode()


def _paths(content: Any) -> Iterator[Any]:
    """Whatever is called a path in nested JSON."""
    rest = [content]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def _length(scope: Scope) -> int | None:
    text = Headers(scope=scope).get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _RefusedError(400, "The Content-Length is no number.")
    return int(text)


def _bounded(receive: Receive, limit: int) -> Receive:
    """Receive at most `limit` bytes, whatever was announced."""
    left = limit

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _RefusedError(413, f"The request has more than {limit} bytes; send less.")
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
    """Receive `body`, then what else comes."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay


def _refusal(error: _RefusedError, scope: Scope) -> ASGIApp:
    """Answer as the API does."""
    problem = {
        "type": "about:blank",
        "title": "The page does not do this",
        "status": error.status,
        "detail": error.detail,
        "request_id": scope.get("state", {}).get("id", ""),
    }
    headers = {"Retry-After": str(_RETRY_S)} if error.status == 429 else None
    return JSONResponse(problem, status_code=error.status, headers=headers, media_type="application/problem+json")
