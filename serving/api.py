"""The HTTP API: versioned routes under /v1, health, metrics, and a page that documents them without the internet."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from models.errors import HardrankError
from serving import encoding
from serving.envelope import DOCS, Envelope, EnvelopeOptions, address_of
from serving.gallery import MAX_TEXT, InvalidItemError, Scalar
from serving.parameters import ItemSearchParameters, SearchParameters
from serving.problems import MEDIA_TYPE, install, problem_of
from serving.schemas import AddedOut, BatchOut, HealthOut, ItemOut, LabelsOut, PageOut, SearchOut, StatsOut
from serving.security import Caller, Keyring, RateLimit, Role, UnauthenticatedError, require
from serving.service import IdQuery, ImageFile, ImageQuery, SearchService
from serving.service import Query as SearchQuery
from serving.settings import Settings
from serving.uploads import BYTES, FORM, Bodies, ClientGoneError, FormError, Part, read_fields, read_image

Result = TypeVar("Result")

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_IMAGE_TYPES: Final = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
_BINARY: Final = {"type": "string", "format": "binary"}
_DESCRIPTION: Final = """
Search a gallery by image or by example, and change it. Images are decoded from their own bytes: JPEG, PNG, WebP, GIF
(first frame), BMP, TIFF. Errors are `application/problem+json` (RFC 9457) and say what to do. Every answer has an
`X-Request-ID`, and those to searches a `Server-Timing` with the stages.
"""


def create_api(
    service: SearchService, settings: Settings, keyring: Keyring | None = None, *, ending: asyncio.Event | None = None
) -> FastAPI:
    """Make the application that answers for `service`, which it starts and closes with itself.

    Set `ending` when no more requests are taken: streams that would go on for ever are cut then.
    """
    ring = Keyring() if keyring is None else keyring
    rate = RateLimit(rate=settings.access.rate, burst=settings.access.burst)
    envelope = EnvelopeOptions(
        metrics=service.metrics,
        keyring=ring,
        rate=rate,
        hosts=_hosts(settings),
        ending=ending or asyncio.Event(),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    app = _Api(
        title="hardrank",
        version=_version(),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        middleware=_middleware(settings, envelope),
    )
    install(app)
    routes = _Routes(service, settings, _Guard(ring, rate))
    versioned = routes.versioned()
    app.include_router(versioned)
    app.include_router(routes.plain())
    app.include_router(_docs(app))
    app.router.routes.append(Route("/v1/{rest:path}", _Nowhere(versioned), include_in_schema=False))
    return app


class _Api(FastAPI):
    """Names in its OpenAPI document the two ways to send a key, which one function reads (`_key_of`)."""

    def openapi(self) -> dict[str, Any]:
        """Describe the API."""
        document = super().openapi()
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
        return document


class _Nowhere:
    """Answers what no route of the API does: 405 with all methods of the address, or 404.

    Without it, the page at / would answer, which takes whatever is left.
    """

    def __init__(self, router: APIRouter) -> None:
        self._routes = [route for route in router.routes if isinstance(route, APIRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise what the framework raises."""
        near = [route for route in self._routes if route.matches(scope)[0] is Match.PARTIAL]
        if not near:
            raise HTTPException(404)
        methods = sorted({method for route in near for method in route.methods or ()})
        raise HTTPException(405, headers={"Allow": ", ".join(methods)})


class _Guard:
    """Lets callers in, by key and rate."""

    def __init__(self, keyring: Keyring, rate: RateLimit) -> None:
        self._keyring = keyring
        self._rate = rate

    def admitting(self, role: Role) -> Any:
        """Make the dependency of routes that need `role`."""

        async def admit(request: Request) -> None:
            request.state.caller = self._admit(request, role)

        return Depends(admit)

    def take(self, request: Request, tokens: int) -> None:
        """Count further queries of a request that was let in."""
        caller: Caller = request.state.caller
        if tokens > 0:
            self._rate.take(caller.name, tokens)

    def _admit(self, request: Request, role: Role) -> Caller:
        address = address_of(request.scope)
        try:
            caller = self._keyring.caller(_key_of(request), address)
            require(caller, role)
        except HardrankError:
            self._rate.take(self._keyring.caller(None, address).name)  # guessing is counted too
            raise
        self._rate.take(caller.name)
        return caller


_Id = Annotated[str, Path(max_length=MAX_TEXT, description="1 to 128 printable characters without slashes")]


class _Routes:
    """The routes of one server."""

    def __init__(self, service: SearchService, settings: Settings, guard: _Guard) -> None:
        self._service = service
        self._settings = settings
        self._guard = guard
        self._bodies = Bodies(settings.limits)

    def plain(self) -> APIRouter:
        """Health and metrics."""
        router = APIRouter(tags=["health"])
        unready: dict[int | str, dict[str, Any]] = {503: _problem("warming up, or shutting down")}
        router.add_api_route("/healthz", self.healthz, response_model=HealthOut, summary="Does the process live?")
        router.add_api_route(
            "/readyz", self.readyz, response_model=HealthOut, responses=unready, summary="Is it ready for requests?"
        )
        if self._settings.metrics:
            router.add_api_route(
                "/metrics",
                self.metrics,
                response_class=Response,
                responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
                summary="Prometheus metrics",
            )
        return router

    def versioned(self) -> APIRouter:
        """Everything under /v1."""
        reading, writing = self._guard.admitting(Role.READ), self._guard.admitting(Role.WRITE)
        router = APIRouter(prefix="/v1", responses=_COMMON)
        add = router.add_api_route
        add(
            "/search",
            self.search_image,
            methods=["POST"],
            tags=["search"],
            dependencies=[reading],
            response_model=SearchOut,
            responses={status: _PROBLEMS[status] for status in (408, 413, 415)},
            openapi_extra={**_image_body(), "parameters": SearchParameters.described(), **_SECURED},
            summary="Search by an image",
        )
        add(
            "/search",
            self.search_id,
            methods=["GET"],
            tags=["search"],
            dependencies=[reading],
            response_model=SearchOut,
            responses={404: _PROBLEMS[404]},
            openapi_extra={"parameters": ItemSearchParameters.described(), **_SECURED},
            summary="Search by an item",
        )
        add(
            "/search/batch",
            self.search_batch,
            methods=["POST"],
            tags=["search"],
            dependencies=[reading],
            response_model=BatchOut,
            responses={status: _PROBLEMS[status] for status in (408, 413, 415)},
            openapi_extra={**_batch_body(), "parameters": SearchParameters.described(), **_SECURED},
            summary="Search by several images and items",
        )
        add(
            "/items",
            self.items,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_model=PageOut,
            openapi_extra=_SECURED,
            summary="List ids",
        )
        add(
            "/items/{id}",
            self.item,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_model=ItemOut,
            responses={404: _PROBLEMS[404]},
            openapi_extra=_SECURED,
            summary="Look at an item",
        )
        add(
            "/items/{id}",
            self.add,
            methods=["PUT"],
            tags=["items"],
            dependencies=[writing],
            status_code=201,
            response_model=AddedOut,
            responses={
                200: {"model": AddedOut, "description": "exactly this was there already"},
                **{status: _PROBLEMS[status] for status in (403, 408, 409, 413, 415)},
            },
            openapi_extra={**_item_body(), **_SECURED},
            summary="Add an item",
        )
        add(
            "/items/{id}",
            self.delete,
            methods=["DELETE"],
            tags=["items"],
            dependencies=[writing],
            status_code=204,
            responses={status: _PROBLEMS[status] for status in (403, 404)},
            openapi_extra=_SECURED,
            summary="Delete an item",
        )
        add(
            "/items/{id}/image",
            self.image,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_class=Response,
            responses={200: _image_answer(*_IMAGE_TYPES, BYTES), 404: _PROBLEMS[404]},
            openapi_extra=_SECURED,
            summary="The file that was indexed, or its thumbnail",
        )
        add(
            "/items/{id}/thumbnail",
            self.thumbnail,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_class=Response,
            responses={200: _image_answer("image/png"), 404: _PROBLEMS[404]},
            openapi_extra=_SECURED,
            summary="A PNG of at most 96 px a side",
        )
        add(
            "/labels",
            self.labels,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_model=LabelsOut,
            openapi_extra=_SECURED,
            summary="The labels, and how many items each has",
        )
        add(
            "/stats",
            self.stats,
            methods=["GET"],
            tags=["stats"],
            dependencies=[reading],
            response_model=StatsOut,
            openapi_extra=_SECURED,
            summary="What is served",
        )
        return router

    # ------------------------------------------------------------------ search

    async def search_image(self, request: Request) -> Response:
        """Find the items most similar to an image: the body is the file, or a form with the field `image`."""
        options = SearchParameters.of(request).options()
        async with self._bodies.read(request) as body:
            data = await read_image(body, request)
            answer = await _attended(request, self._service.search(ImageQuery(data=data), options))
        return _json(encoding.search(answer), headers=encoding.server_timing(answer))

    async def search_id(self, request: Request) -> Response:
        """Find the items most similar to an indexed one."""
        asked = ItemSearchParameters.of(request)
        answer = await _attended(request, self._service.search(IdQuery(id=asked.id), asked.options()))
        return _json(encoding.search(answer), headers=encoding.server_timing(answer))

    async def search_batch(self, request: Request) -> Response:
        """Find the items most similar to several images and items: a form with the fields `images` and `ids`.

        All are admitted or none (429). What is wrong with one query is told in its place.
        """
        options = SearchParameters.of(request).options()
        most = self._settings.limits.batch_queries
        async with self._bodies.read(request) as body:
            fields = await read_fields(body, request, allowed={"images": most, "ids": most}, parts=most)
            self._guard.take(request, len(fields) - 1)
            queries = [_query_of(part) for part in fields]
            answers = await _attended(request, self._service.search_many(queries, options))
        request_id = request.state.id
        return _json(
            {
                "answers": [
                    {"answer": None, "problem": problem_of(answer, request_id).model_dump(exclude_none=True)}
                    if isinstance(answer, HardrankError)
                    else {"answer": encoding.search(answer), "problem": None}
                    for answer in answers
                ]
            }
        )

    # ------------------------------------------------------------------ items

    async def items(
        self,
        start: Annotated[int, Query(ge=0, le=2**53, description="ids to skip")] = 0,
        count: Annotated[int, Query(ge=1, description="ids to give, at most")] = 100,
        label: Annotated[str | None, Query(max_length=MAX_TEXT, description="only items with this label")] = None,
    ) -> Response:
        """List ids in the order of addition."""
        count = min(count, self._settings.limits.page_items)
        ids = await self._service.ids(start=start, count=count, label=label)
        return _json({"ids": ids, "next": start + count if len(ids) == count else None})

    async def item(self, id: _Id) -> Response:
        """Give an item's label, metadata and size."""
        return _json(encoding.item(await self._service.item(id)))

    async def image(self, id: _Id, request: Request) -> Response:
        """Give the file that an item was made of, byte by byte; where it is gone or has changed, the thumbnail.

        The header Content-Location tells which of the two it is.
        """
        file = await self._service.image(id)
        place = f"/v1/items/{quote(id, safe='')}/{'image' if file.original else 'thumbnail'}"
        return _file(file, {"Content-Location": request.scope.get("root_path", "") + place})

    async def thumbnail(self, id: _Id) -> Response:
        """Give a small picture of an item."""
        return _file(await self._service.thumbnail(id), {})

    async def add(self, id: _Id, request: Request) -> Response:
        """Index an image under an id, for all models at once; it is found, and on the disk, when this answers.

        The form has the field `image`, and may have `label` and `metadata` (a JSON object of plain values). Sent again,
        the same changes nothing.
        """
        async with self._bodies.read(request) as body:
            allowed = {"image": 1, "label": 1, "metadata": 1}
            fields = {part.name: part for part in await read_fields(body, request, allowed=allowed, parts=3)}
            if "image" not in fields:
                raise FormError("The form has no field `image`; send the file in it.")
            item, new = await _attended(
                request,
                self._service.add(
                    id,
                    fields["image"].content,
                    label=fields["label"].text() if "label" in fields else None,
                    metadata=_metadata(fields.get("metadata")),
                ),
            )
        return _json({"item": encoding.item(item), "new": new}, status=201 if new else 200)

    async def delete(self, id: _Id) -> Response:
        """Delete an item from the indexes of all models."""
        await self._service.delete(id)
        return Response(status_code=204)

    # ------------------------------------------------------------------ about the server

    async def labels(self) -> Response:
        """Count the items of each label."""
        return _json({"labels": await self._service.labels()})

    async def stats(self) -> Response:
        """Tell models, indexes and limits."""
        return _json(encoding.stats(await self._service.stats(), self._service, _version()))

    async def healthz(self) -> Response:
        """Answer as long as the process lives."""
        return _json({"status": "alive"})

    async def readyz(self) -> Response:
        """Answer 200 once everything has run once, and until the shutdown."""
        self._service.check_ready()
        return _json({"status": "ready"})

    async def metrics(self) -> Response:
        """Give latencies of each stage, the queue, rejections and sizes, as Prometheus reads them."""
        text = await asyncio.to_thread(self._service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")


# ---------------------------------------------------------------------- requests


async def _attended(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work` as long as somebody waits for it: a caller who hangs up takes the work out of the queue."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("The connection was closed before the answer.")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _key_of(request: Request) -> str | None:
    """Give the key that was sent, in either header; raises `UnauthenticatedError` for another kind of credentials."""
    given = request.headers.get("authorization")
    if given is None:
        return request.headers.get("x-api-key")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthenticatedError("The header Authorization holds no API key; send it as `Authorization: Bearer KEY`.")
    return key.strip()


def _query_of(part: Part) -> SearchQuery:
    return IdQuery(id=part.text()) if part.name == "ids" else ImageQuery(data=part.content)


def _metadata(part: Part | None) -> Mapping[str, Scalar]:
    if part is None:
        return {}
    try:
        content = orjson.loads(part.content)
    except orjson.JSONDecodeError as error:
        raise InvalidItemError(f'the metadata are no JSON ({error}); give an object, as {{"price": 3}}') from error
    if not isinstance(content, dict):
        raise InvalidItemError('the metadata are no JSON object; give one, as {"price": 3}')
    return content


# ---------------------------------------------------------------------- answers


def _json(content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def _file(file: ImageFile, headers: Mapping[str, str]) -> Response:
    return Response(file.data, headers={"Cache-Control": "private, max-age=60", **headers}, media_type=file.media_type)


# ---------------------------------------------------------------------- what OpenAPI tells


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


_PROBLEMS: Final[Mapping[int, dict[str, Any]]] = {
    403: _problem("the key, or the server, does not allow this"),
    404: _problem("the item does not exist"),
    408: _problem("the body did not come in time"),
    409: _problem("the id belongs to another image"),
    413: _problem("the body or the image is too large"),
    415: _problem("the body has an unsupported type"),
}
_SECURED: Final[dict[str, Any]] = {"security": [{"bearer": []}, {"key": []}]}
_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_COMMON: Final[dict[int | str, dict[str, Any]]] = {
    401: _problem("an API key is needed, or unknown"),
    421: _problem("the Host header names another server"),
    422: _problem("the request, or the image, is not as it must be"),
    429: _problem("the queue is full, or the rate limit is reached; Retry-After tells when to try again"),
    500: _problem("the server failed; the text is in its log alone"),
    503: _problem("the server is warming up, or shutting down"),
}


def _image_body() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {"image": {**_BINARY, "description": "the file"}},
        "required": ["image"],
        "additionalProperties": False,
    }
    content = {kind: {"schema": _BINARY} for kind in (*_IMAGE_TYPES, BYTES)}
    return {"requestBody": {"required": True, "content": {**content, FORM: {"schema": form}}}}


def _batch_body() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {
            "images": {"type": "array", "items": _BINARY, "description": "files"},
            "ids": {"type": "array", "items": {"type": "string"}, "description": "items to search by"},
        },
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def _item_body() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {
            "image": {**_BINARY, "description": "the file"},
            "label": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
            "metadata": {"type": "string", "description": "a JSON object of text, numbers, true, false and null"},
        },
        "required": ["image"],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


def _image_answer(*kinds: str) -> dict[str, Any]:
    return {"description": "the bytes of a file", "content": {kind: {"schema": _BINARY} for kind in kinds}}


def _docs(app: FastAPI) -> APIRouter:
    """Make the page that shows the API and sends requests to it; all it loads comes from here."""
    assets = resources.files("fastapi_offline") / "static"
    router = APIRouter(include_in_schema=False)

    @router.get(DOCS)
    async def page(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="hardrank: API",
            swagger_js_url=f"{root}{DOCS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{DOCS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{DOCS}/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},
        )

    @router.get(DOCS + "/{name}")
    async def asset(name: Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]) -> Response:
        data = await asyncio.to_thread((assets / name).read_bytes)
        kinds = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
        return Response(
            data, media_type=kinds[name.rpartition(".")[2]], headers={"Cache-Control": "public, max-age=86400"}
        )

    return router


def _middleware(settings: Settings, options: EnvelopeOptions) -> list[Middleware]:
    found = [Middleware(Envelope, options=options)]
    if settings.access.cors_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.access.cors_origins),
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-ID"],
                expose_headers=["X-Request-ID", "Server-Timing", "Retry-After", "Content-Location"],
            )
        )
    return found


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Names the server answers to; on the loopback its own, so that no page on the web can be one of them."""
    if settings.access.allowed_hosts or not settings.network.loopback:
        return settings.access.allowed_hosts
    return LOOPBACK_HOSTS


def _version() -> str:
    try:
        return version("hardrank")
    except PackageNotFoundError:
        return "unknown"
