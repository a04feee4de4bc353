"""The HTTP API: versioned routes under /v1, health, metrics, and a page that documents them without the internet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from hardrank.serving.api import routes
from hardrank.serving.api.access import Guard
from hardrank.serving.api.auth import Keyring, RateLimit
from hardrank.serving.api.endpoints import Handlers
from hardrank.serving.api.middleware import DOCS, Envelope, EnvelopeOptions
from hardrank.serving.api.openapi_parts import SCHEMES
from hardrank.serving.api.problems import install
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
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
    guard = Guard(ring, rate)
    handlers = Handlers(service, settings, guard, version=_version())
    versioned = routes.versioned(handlers, guard)
    app.include_router(versioned)
    app.include_router(routes.plain(handlers, metrics=settings.metrics))
    app.include_router(_docs(app))
    app.router.routes.append(Route("/v1/{rest:path}", _Nowhere(versioned), include_in_schema=False))
    return app


class _Api(FastAPI):
    """Names in its OpenAPI document the two ways to send a key, which one function reads."""

    def openapi(self) -> dict[str, Any]:
        """Describe the API."""
        document = super().openapi()
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
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
