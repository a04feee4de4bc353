"""An allow-list in front of Gradio: only the routes and files that the page needs are reachable.

By default Gradio also fetches URLs for callers, runs functions outside its queue, accepts unlimited uploads and leaves
them on disk when they are aborted. So uploads do not reach Gradio, nor do calls that the page does not make. Every
request that is not listed here is answered 404.
"""

import asyncio
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import gradio as gr
import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardrank.models.decode_limits import ImageTooLargeError
from hardrank.serving.api.auth import network_of
from hardrank.serving.api.bodies import BodyReader, BodyTooLargeError, cancel_on_disconnect, read_fields
from hardrank.serving.api.middleware import address_of, route_path
from hardrank.serving.api.problems import http_error_response, problem_type_of, response_to
from hardrank.serving.page.assets import Assets
from hardrank.serving.page.calls import check_call
from hardrank.serving.page.item_images import ItemImages
from hardrank.serving.page.logins import Logins
from hardrank.serving.page.sessions import PendingCalls
from hardrank.serving.page.uploads import UploadStore

_MAX_CALL_BYTES: Final = 2**16
"""Of a call of one of the page's functions. The event loop parses it."""
_MAX_LOGIN_BYTES: Final = 2**12
_MAX_FILES: Final = 8

_FILE: Final = "/gradio_api/file="
_UPLOAD: Final = "/gradio_api/upload"
_PROGRESS: Final = "/gradio_api/upload_progress"
_CALL: Final = "/gradio_api/queue/join"
_ANSWERS: Final = "/gradio_api/queue/data"
_ITEM: Final = "/item/"
_LOGIN: Final = "/login"
_LOGIN_PAGE: Final = Path(__file__).with_name("login.html").read_text(encoding="utf-8")
_LOGOUT: Final = "/logout"
_LOGOUT_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>hardrank · sign out</title>'
    '<form method="post" action="logout"><button>Sign out</button></form>'
)

_READ: Final = frozenset(
    {
        "/",
        "/config",
        "/favicon.ico",
        "/gradio_api/app_id",
        "/gradio_api/login_check",
        "/gradio_api/startup-events",
        "/gradio_api/user",
        "/manifest.json",
        "/robots.txt",
        "/theme.css",
    }
)
_RENDERED: Final = frozenset({"/", "/config"})
"""Addresses whose responses Gradio makes on the event loop, in ten milliseconds."""
_HOSTS: Final = frozenset({b"host", b"x-forwarded-host"})
_PUBLIC: Final = frozenset({"/favicon.ico", "/manifest.json", "/robots.txt", "/theme.css"})
"""What browsers also read before a login, or without its cookie."""


class AllowListMiddleware:
    """ASGI middleware around the Gradio app."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        blocks: gr.Blocks,
        bodies: BodyReader,
        uploads: UploadStore,
        calls: PendingCalls,
        images: ItemImages,
        logins: Logins,
        image_bytes: int,
    ) -> None:
        """Wrap `app`.

        Args:
            app: The Gradio app.
            blocks: Its page.
            bodies: Reads request bodies, within the limits of the server.
            uploads: Where uploads are stored, and the only files that can be read.
            calls: The calls that wait for an answer.
            images: The originals of the gallery, uploads, and previews.
            logins: Who is logged in.
            image_bytes: Limit of one uploaded file.
        """
        self._app = app
        self._blocks = blocks
        self._bodies = bodies
        self._uploads = uploads
        self._calls = calls
        self._images = images
        self._logins = logins
        self._assets = Assets()
        self._image_bytes = image_bytes
        self._rendering = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, answer it, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def tracked_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        request_id = scope.get("state", {}).get("id", "")
        try:
            response = await self._forward(scope, receive, tracked_send)
        except HTTPException as error:
            response = http_error_response(error.status_code, request_id)
        except Exception as error:
            if started:
                raise
            scope.setdefault("state", {})["problem_type"] = problem_type_of(error)
            response = response_to(error, request_id)
        if response is not None:
            await response(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Return the response, or None if the app has responded; raises errors for `response_to`."""
        if scope["type"] != "http":
            raise HTTPException(404)
        if _is_from_other_site(scope):
            raise HTTPException(403)
        path = route_path(scope)
        if scope["method"] in {"GET", "HEAD"}:
            return await self._read(path, scope, receive, send)
        if scope["method"] != "POST" or path not in {_UPLOAD, _CALL, _LOGIN, _LOGOUT}:
            raise HTTPException(404)
        if path in {_LOGIN, _LOGOUT}:
            return await self._change_login(path, Request(scope, receive))
        self._check_login(scope)
        if path == _UPLOAD:
            return await self._store(Request(scope, receive))
        async with self._bodies.read(Request(scope, receive)) as body:
            if len(body) > _MAX_CALL_BYTES:
                raise BodyTooLargeError(f"The request body exceeds {_MAX_CALL_BYTES} bytes; send a smaller one.")
            call = check_call(body, self._blocks)
            with self._calls.joining(call.session, _owner(scope)):
                await self._app(_with_length(_for_gradio(scope), len(call.body)), _replay(call.body, receive), send)
        return None

    async def _change_login(self, path: str, request: Request) -> Response:
        """Log the visitor in or out."""
        if not self._logins.needed:
            raise HTTPException(404)
        if path == _LOGOUT:
            return self._logins.log_out(request.scope)
        async with self._bodies.read(request) as body:
            if len(body) > _MAX_LOGIN_BYTES:
                raise BodyTooLargeError(f"The request body exceeds {_MAX_LOGIN_BYTES} bytes; send a smaller one.")
            return self._logins.log_in(body, secure=request.url.scheme == "https")

    async def _read(self, path: str, scope: Scope, receive: Receive, send: Send) -> Response | None:
        if path in self._assets:
            return await self._assets.response(path, Request(scope).headers.get("accept-encoding", ""))
        if path == "/" and not self._logins.admits(scope):
            return HTMLResponse(_LOGIN_PAGE, headers={"Cache-Control": "no-store"})
        if path == _LOGOUT and self._logins.needed:
            return HTMLResponse(_LOGOUT_PAGE, headers={"Cache-Control": "no-store"})
        if path == _PROGRESS:
            self._check_login(scope)
            return _progress()
        if path.startswith(_FILE):
            self._check_login(scope)
            return await self._file(path.removeprefix(_FILE), Request(scope, receive))
        if path.startswith(_ITEM):
            self._check_login(scope)
            download = scope["query_string"] == b"download"
            image = self._images.response(path.removeprefix(_ITEM), _owner(scope), download=download)
            return await cancel_on_disconnect(Request(scope, receive), image)
        if path == _ANSWERS:
            self._check_login(scope)
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
            if session not in self._calls:
                # All its answers were read. A browser may ask again: they overtook the response to its last call.
                return _no_answers()
            with self._calls.reading(session):
                await self._app(_for_gradio(scope, f"session_hash={session}"), receive, send)
            return None
        if path not in _READ:
            raise HTTPException(404)
        if path not in _PUBLIC:
            self._check_login(scope)
        if path in _RENDERED:
            return await self._rendered(_for_gradio(scope))
        await self._app(_for_gradio(scope), receive, send)
        return None

    async def _rendered(self, scope: Scope) -> Response:
        """Return Gradio's response. One at a time, so that many visitors do not keep the event loop from others."""
        async with self._rendering:
            start, body = await _response_of(self._app, scope)
        response = Response(body, status_code=start["status"])
        response.raw_headers = start["headers"]
        return response

    async def _store(self, request: Request) -> Response:
        """Store uploads and return their names."""
        async with self._bodies.read(request) as body:
            fields = await read_fields(body, request, allowed={"files": _MAX_FILES}, most=_MAX_FILES)
            if any(len(field.content) > self._image_bytes for field in fields):
                raise ImageTooLargeError(f"The file exceeds the maximum allowed size of {self._image_bytes} bytes.")
            owner = _owner(request.scope)
            return JSONResponse([await self._uploads.add(field.content, owner=owner) for field in fields])

    async def _file(self, name: str, request: Request) -> Response:
        """Return an upload, or a preview of it."""
        shown = await cancel_on_disconnect(request, self._images.upload(name, _owner(request.scope)))
        if shown is None:
            raise HTTPException(404)
        data, media_type = shown
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=60"})

    def _check_login(self, scope: Scope) -> None:
        """Raise unless the visitor is logged in, or the page needs no login."""
        if not self._logins.admits(scope):
            raise HTTPException(401)


async def _response_of(app: ASGIApp, scope: Scope) -> tuple[Message, bytes]:
    """Return the start and the body of a response to a request without a body."""
    messages: list[Message] = []
    requests: asyncio.Queue[Message] = asyncio.Queue()
    requests.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, requests.get, send)
    return messages[0], b"".join(message.get("body", b"") for message in messages[1:])


def _is_from_other_site(scope: Scope) -> bool:
    """Return whether a browser sends the request for a page of another site, other than to follow a link."""
    headers = dict(scope["headers"])
    follows_link = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
    return headers.get(b"sec-fetch-site") in {b"cross-site", b"same-site"} and not follows_link


def _for_gradio(scope: Scope, query: str = "") -> Scope:
    """Return a request as Gradio gets it.

    Without its query string, which the page's script reads itself, and without names of hosts that are none: Gradio
    fails for some of them, and logs a traceback.
    """
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name != b"x-gradio-server" and (name not in _HOSTS or _is_host(value))
    ]
    return {**scope, "query_string": query.encode(), "headers": headers}


def _is_host(header: bytes) -> bool:
    """Whether Gradio can make an address of a header."""
    first = header.decode("latin-1").partition(",")[0].strip()
    try:
        httpx.URL(f"http://{first}")
    except httpx.InvalidURL:
        return False
    return True


def _owner(scope: Scope) -> str:
    return network_of(address_of(scope))


def _progress() -> Response:
    """Tell the page that an upload has ended: its progress is not recorded."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def _no_answers() -> Response:
    """Tell the page that no answer will come."""
    return Response('data: {"msg": "close_stream", "event_id": null}\n\n', media_type="text/event-stream")


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receive `body` first, then the remaining messages."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay
