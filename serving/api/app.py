"""The HTTP API as a FastAPI application: routes under /v1, health, metrics, and interactive documentation offline."""

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
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from hardrank.serving.api.access import AccessControl
from hardrank.serving.api.auth import Keyring, KeyRole
from hardrank.serving.api.bodies import BodyReader, HeldBytes
from hardrank.serving.api.direct_route import DirectRoute
from hardrank.serving.api.endpoints import Endpoints, health_router, metrics_router, v1_router
from hardrank.serving.api.middleware import DOCS, MiddlewareOptions, RequestMiddleware
from hardrank.serving.api.openapi_parts import SCHEMES
from hardrank.serving.api.problems import install_handlers
from hardrank.serving.api.rate_limit import RateLimit
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_DESCRIPTION: Final = """
Search a gallery by image or by item; add and delete items. Images may be JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG
2000 or HEIC; the format is detected from the bytes. Errors are `application/problem+json` (RFC 9457) and say how to fix
the request. Every response has an `X-Request-ID` header; responses to single searches also have `Server-Timing`.
"""


def create_api(service: SearchService, settings: Settings, keyring: Keyring | None = None) -> FastAPI:
    """Make the application for `service`, which it starts and closes."""
    ring = Keyring() if keyring is None else keyring
    rate = RateLimit(rate=settings.access.rate, burst=settings.access.burst)
    options = MiddlewareOptions(
        metrics=service.metrics,
        keyring=ring,
        rate=rate,
        reads=_reads(settings),
        responses=HeldBytes(settings.limits, "downloads"),
        hosts=_hosts(settings),
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
        openapi_url=None,
        lifespan=lifespan,
        middleware=_middleware(settings, options),
    )
    install_handlers(app)
    access = AccessControl(ring, rate)
    app.state.bodies, app.state.rate = BodyReader(settings.limits), rate
    endpoints = Endpoints(service, settings, access, app.state.bodies, options.responses, version=_version())
    v1 = v1_router(endpoints, access)
    # Before the described route of the same address, which only serves the OpenAPI document.
    app.router.routes.append(DirectRoute("/v1/search", endpoints.search_image, access))
    app.include_router(v1)
    app.include_router(health_router(endpoints))
    if settings.metrics:
        app.include_router(metrics_router(endpoints, access))
    app.include_router(_docs(app, access))
    app.router.routes.append(Route("/v1/{rest:path}", _NoSuchRoute(v1), include_in_schema=False))
    return app


class _Api(FastAPI):
    """Adds the two ways to send an API key to the OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
        return document


class _NoSuchRoute:
    """Answers requests under /v1 that match no route: 405 with the methods of the address, or 404.

    Without it, they would reach the page, which is mounted at / and handles everything else.
    """

    def __init__(self, router: APIRouter) -> None:
        self._routes = [route for route in router.routes if isinstance(route, APIRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise what FastAPI raises."""
        same_path = [route for route in self._routes if route.matches(scope)[0] is Match.PARTIAL]
        if not same_path:
            raise HTTPException(404)
        methods = sorted({method for route in same_path for method in route.methods or ()})
        raise HTTPException(405, headers={"Allow": ", ".join(methods)})


def _docs(app: FastAPI, access: AccessControl) -> APIRouter:
    """Return the routes of the OpenAPI document and its interactive page, which loads nothing from other hosts."""
    assets = resources.files("fastapi_offline") / "static"
    router = APIRouter(include_in_schema=False, dependencies=[access.requires(KeyRole.READ, counted=False)])

    @router.get("/openapi.json")
    async def document(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        return JSONResponse({**app.openapi(), **({"servers": [{"url": root}]} if root else {})})

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


def _middleware(settings: Settings, options: MiddlewareOptions) -> list[Middleware]:
    return [
        Middleware(RequestMiddleware, options=options),
        # Without origins too: else Gradio lets any site read the page, with the login of a visitor.
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.access.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Server-Timing", "Retry-After", "Content-Location"],
        ),
    ]


def _reads(settings: Settings) -> RateLimit:
    """Limit the reads of the page: never so low that a browser cannot open it several times at once."""
    access = settings.access
    return RateLimit(rate=max(4 * access.rate, 400) if access.rate else 0, burst=max(4 * access.burst, 1000))


def _hosts(settings: Settings) -> tuple[str, ...]:
    """Host names to accept; by default on the loopback only its own, which prevents DNS rebinding.

    The address that the server listens on is one of them: 127.0.0.2 is on the loopback too.
    """
    if settings.access.allowed_hosts or not settings.network.loopback:
        return settings.access.allowed_hosts
    host = settings.network.host.lower()
    return (*LOOPBACK_HOSTS, f"[{host}]" if ":" in host else host)


def _version() -> str:
    try:
        return version("hardrank")
    except PackageNotFoundError:
        return "unknown"
