"""Which address of the API calls which handler, who may, and what OpenAPI tells of it."""

from typing import Any

from fastapi import APIRouter, Response

from hardrank.serving.api.access import Guard
from hardrank.serving.api.auth import Role
from hardrank.serving.api.bodies import BYTES
from hardrank.serving.api.endpoints import Handlers
from hardrank.serving.api.openapi_parts import (
    COMMON,
    IMAGE_TYPES,
    PROBLEMS,
    SECURED,
    batch_body,
    image_answer,
    image_body,
    item_body,
    problem,
)
from hardrank.serving.api.parameters import ItemSearchParameters, SearchParameters
from hardrank.serving.api.schemas import AddedOut, BatchOut, HealthOut, ItemOut, LabelsOut, PageOut, SearchOut, StatsOut


def plain(handlers: Handlers, *, metrics: bool) -> APIRouter:
    """Health and, where they are asked for, metrics."""
    router = APIRouter(tags=["health"])
    unready: dict[int | str, dict[str, Any]] = {503: problem("warming up, or shutting down")}
    router.add_api_route("/healthz", handlers.healthz, response_model=HealthOut, summary="Does the process live?")
    router.add_api_route(
        "/readyz", handlers.readyz, response_model=HealthOut, responses=unready, summary="Is it ready for requests?"
    )
    if metrics:
        router.add_api_route(
            "/metrics",
            handlers.metrics,
            response_class=Response,
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
            summary="Prometheus metrics",
        )
    return router


def versioned(handlers: Handlers, guard: Guard) -> APIRouter:
    """Everything under /v1."""
    reading, writing = guard.admitting(Role.READ), guard.admitting(Role.WRITE)
    router = APIRouter(prefix="/v1", responses=COMMON)
    _add_search(router, handlers, reading)
    _add_items(router, handlers, reading)
    _add_changes(router, handlers, writing)
    _add_images(router, handlers, reading)
    _add_overviews(router, handlers, reading)
    return router


def _add_search(router: APIRouter, handlers: Handlers, reading: Any) -> None:
    add = router.add_api_route
    add(
        "/search",
        handlers.search_image,
        methods=["POST"],
        tags=["search"],
        dependencies=[reading],
        response_model=SearchOut,
        responses={status: PROBLEMS[status] for status in (408, 413, 415)},
        openapi_extra={**image_body(), "parameters": SearchParameters.described(), **SECURED},
        summary="Search by an image",
    )
    add(
        "/search",
        handlers.search_id,
        methods=["GET"],
        tags=["search"],
        dependencies=[reading],
        response_model=SearchOut,
        responses={404: PROBLEMS[404]},
        openapi_extra={"parameters": ItemSearchParameters.described(), **SECURED},
        summary="Search by an item",
    )
    add(
        "/search/batch",
        handlers.search_batch,
        methods=["POST"],
        tags=["search"],
        dependencies=[reading],
        response_model=BatchOut,
        responses={status: PROBLEMS[status] for status in (408, 413, 415)},
        openapi_extra={**batch_body(), "parameters": SearchParameters.described(), **SECURED},
        summary="Search by several images and items",
    )


def _add_items(router: APIRouter, handlers: Handlers, reading: Any) -> None:
    add = router.add_api_route
    add(
        "/items",
        handlers.items,
        methods=["GET"],
        tags=["items"],
        dependencies=[reading],
        response_model=PageOut,
        openapi_extra=SECURED,
        summary="List ids",
    )
    add(
        "/items/{id}",
        handlers.item,
        methods=["GET"],
        tags=["items"],
        dependencies=[reading],
        response_model=ItemOut,
        responses={404: PROBLEMS[404]},
        openapi_extra=SECURED,
        summary="Look at an item",
    )


def _add_changes(router: APIRouter, handlers: Handlers, writing: Any) -> None:
    add = router.add_api_route
    add(
        "/items/{id}",
        handlers.add,
        methods=["PUT"],
        tags=["items"],
        dependencies=[writing],
        status_code=201,
        response_model=AddedOut,
        responses={
            200: {"model": AddedOut, "description": "exactly this was there already"},
            **{status: PROBLEMS[status] for status in (403, 408, 409, 413, 415)},
        },
        openapi_extra={**item_body(), **SECURED},
        summary="Add an item",
    )
    add(
        "/items/{id}",
        handlers.delete,
        methods=["DELETE"],
        tags=["items"],
        dependencies=[writing],
        status_code=204,
        responses={status: PROBLEMS[status] for status in (403, 404)},
        openapi_extra=SECURED,
        summary="Delete an item",
    )


def _add_images(router: APIRouter, handlers: Handlers, reading: Any) -> None:
    add = router.add_api_route
    add(
        "/items/{id}/image",
        handlers.image,
        methods=["GET"],
        tags=["items"],
        dependencies=[reading],
        response_class=Response,
        responses={200: image_answer(*IMAGE_TYPES, BYTES), 404: PROBLEMS[404]},
        openapi_extra=SECURED,
        summary="The file that was indexed, or its thumbnail",
    )
    add(
        "/items/{id}/thumbnail",
        handlers.thumbnail,
        methods=["GET"],
        tags=["items"],
        dependencies=[reading],
        response_class=Response,
        responses={200: image_answer("image/png"), 404: PROBLEMS[404]},
        openapi_extra=SECURED,
        summary="A PNG of at most 96 px a side",
    )


def _add_overviews(router: APIRouter, handlers: Handlers, reading: Any) -> None:
    add = router.add_api_route
    add(
        "/labels",
        handlers.labels,
        methods=["GET"],
        tags=["items"],
        dependencies=[reading],
        response_model=LabelsOut,
        openapi_extra=SECURED,
        summary="The labels, and how many items each has",
    )
    add(
        "/stats",
        handlers.stats,
        methods=["GET"],
        tags=["stats"],
        dependencies=[reading],
        response_model=StatsOut,
        openapi_extra=SECURED,
        summary="What is served",
    )
