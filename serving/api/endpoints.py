"""The endpoints of the API: what each address does, which role it requires, and how OpenAPI describes it."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from hardrank.serving.api import schemas
from hardrank.serving.api.access import AccessControl, caller_name
from hardrank.serving.api.answers_json import LargeJson, batch_parts, search_parts
from hardrank.serving.api.auth import KeyRole, network_of
from hardrank.serving.api.bodies import (
    BYTES,
    BodyReader,
    FormError,
    FormField,
    HeldBytes,
    cancel_on_disconnect,
    read_fields,
    read_image,
)
from hardrank.serving.api.middleware import address_of
from hardrank.serving.api.openapi_parts import (
    COMMON_ERRORS,
    ERRORS,
    IMAGE_TYPES,
    SECURED,
    batch_body,
    error_response,
    image_body,
    image_response,
    item_body,
)
from hardrank.serving.api.parameters import ItemSearchParameters, SearchParameters
from hardrank.serving.search.item_images import ImageFile
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import IdQuery, ImageQuery, SearchAnswer
from hardrank.serving.search.types import Query as SearchQuery
from hardrank.serving.settings import Settings
from hardrank.serving.store.items import MAX_METADATA_BYTES, MAX_TEXT, InvalidItemError, Scalar

_Id = Annotated[str, Path(max_length=MAX_TEXT, description="1 to 128 printable characters without slashes")]

_MAX_METADATA_FIELD_BYTES = 6 * MAX_METADATA_BYTES
"""JSON may write any character as six ASCII ones."""

_INLINE_BYTES = 2**18
"""Smaller answers are written at once."""


class Endpoints:
    """The endpoints of one server. Their docstrings are the descriptions in OpenAPI."""

    def __init__(
        self,
        service: SearchService,
        settings: Settings,
        access: AccessControl,
        bodies: BodyReader,
        responses: HeldBytes,
        *,
        version: str,
    ) -> None:
        self._service = service
        self._settings = settings
        self._access = access
        self._version = version
        self._bodies = bodies
        self._responses = responses

    # ------------------------------------------------------------------ search

    async def search_image(self, request: Request) -> Response:
        """Find the items most similar to an image. The body is the image file, or a form with the field `image`."""
        options = SearchParameters.of(request).options()
        async with self._bodies.read(request) as body:
            data = await read_image(body, request)
            answer = await cancel_on_disconnect(
                request, self._service.search(ImageQuery(data=data), options, caller=caller_name(request))
            )
        return await self._search_response(request, answer)

    async def search_id(self, request: Request) -> Response:
        """Find the items most similar to an indexed item."""
        parameters = ItemSearchParameters.of(request)
        query = IdQuery(id=parameters.id)
        answer = await cancel_on_disconnect(
            request, self._service.search(query, parameters.options(), caller=caller_name(request))
        )
        return await self._search_response(request, answer)

    async def search_batch(self, request: Request) -> Response:
        """Find the items most similar to several images and items: a form with the fields `images` and `ids`.

        The batch is accepted as a whole or rejected with 429. An error in one query is reported in its place.
        """
        options = SearchParameters.of(request).options()
        most = self._settings.limits.batch_queries
        async with self._bodies.read(request) as body:
            fields = await read_fields(body, request, allowed={"images": most, "ids": most}, most=most)
            self._access.take_batch(request, len(fields))
            queries = [_query_of(field) for field in fields]
            answers = await cancel_on_disconnect(
                request, self._service.search_many(queries, options, caller=caller_name(request))
            )
        size = sum(answer.size for answer in answers if isinstance(answer, SearchAnswer))
        return await self._response(request, batch_parts(answers, request.state.id), size, {})

    async def _search_response(self, request: Request, answer: SearchAnswer) -> Response:
        return await self._response(request, search_parts(answer), answer.size, schemas.server_timing(answer))

    async def _response(
        self, request: Request, parts: Iterator[bytes], size: int, headers: Mapping[str, str]
    ) -> Response:
        """Return an answer of about `size` bytes, which count for the rate limit.

        Large ones are written in a thread, in turn by caller: others would wait for the event loop.
        """
        self._access.charge(request, size)
        if size <= _INLINE_BYTES:
            return Response(b"".join(parts), headers=dict(headers), media_type="application/json")
        with self._responses.holding(size, network_of(address_of(request.scope))):
            written = await self._service.in_turn(lambda: list(parts), caller=caller_name(request))
        return LargeJson(written, headers)

    # ------------------------------------------------------------------ items

    async def items(
        self,
        start: Annotated[int, Query(ge=0, le=2**53, description="number of ids to skip; ignored with `after`")] = 0,
        after: Annotated[
            int | None,
            Query(ge=-1, le=2**53, description="`next_after` of the page before: changes meanwhile skip no item"),
        ] = None,
        count: Annotated[int, Query(ge=1, description="largest number of ids to return")] = 100,
        label: Annotated[str | None, Query(max_length=MAX_TEXT, description="only items with this label")] = None,
    ) -> Response:
        """List ids in order of addition."""
        count = min(count, self._settings.limits.page_items)
        page = await self._service.list_ids(start=start, after=after, count=count, label=label)
        more = len(page.ids) == count
        following = start + count if more and after is None else None
        return _json({"ids": page.ids, "next": following, "next_after": page.last_row if more else None})

    async def item(self, id: _Id) -> Response:
        """Return label, metadata and size of an item."""
        return _json(schemas.item_json(await self._service.item(id)))

    async def image(self, id: _Id, request: Request) -> Response:
        """Return the indexed file of an item, byte for byte; or its thumbnail, if the file was deleted or has changed.

        The Content-Location header tells which of the two it is.
        """
        file = await cancel_on_disconnect(request, self._service.image(id))
        self._access.charge(request, len(file.data))
        path = f"/v1/items/{quote(id, safe='')}/{'image' if file.original else 'thumbnail'}"
        return _file(file, {"Content-Location": request.scope.get("root_path", "") + path})

    async def thumbnail(self, id: _Id) -> Response:
        """Return a small version of an item's image."""
        return _file(await self._service.thumbnail(id), {})

    async def add(self, id: _Id, request: Request) -> Response:
        """Add an image to the indexes of all models. When the response arrives, the item is on disk and is found.

        The form has the field `image`, and optionally `label` and `metadata` (a JSON object whose values are strings,
        numbers, booleans or null). Sending the same request again changes nothing.
        """
        async with self._bodies.read(request) as body:
            allowed = {"image": 1, "label": 1, "metadata": 1}
            fields = {field.name: field for field in await read_fields(body, request, allowed=allowed, most=3)}
            if "image" not in fields:
                raise FormError("The form has no field `image`; send the image file in it.")
            item, new = await cancel_on_disconnect(
                request,
                self._service.add(
                    id,
                    fields["image"].content,
                    label=fields["label"].text() if "label" in fields else None,
                    metadata=_metadata(fields.get("metadata")),
                    caller=caller_name(request),
                ),
            )
        return _json({"item": schemas.item_json(item), "new": new}, status=201 if new else 200)

    async def delete(self, id: _Id, request: Request) -> Response:
        """Delete an item from the indexes of all models."""
        await cancel_on_disconnect(request, self._service.delete(id, caller=caller_name(request)))
        return Response(status_code=204)

    # ------------------------------------------------------------------ the server

    async def labels(self, request: Request) -> Response:
        """Count the items of each label."""
        content = orjson.dumps({"labels": await self._service.labels()})
        return await self._response(request, iter((content,)), len(content), {})

    async def stats(self) -> Response:
        """Return models, indexes and limits."""
        return _json(schemas.stats_json(await self._service.stats(), self._service, self._version))

    async def healthz(self) -> Response:
        """Return 200 while the process runs."""
        return _json({"status": "alive"})

    async def readyz(self) -> Response:
        """Return 200 from the end of the warm-up until the shutdown."""
        self._service.check_ready()
        return _json({"status": "ready"})

    async def metrics(self) -> Response:
        """Return latencies by stage, queue length, rejections and sizes for Prometheus."""
        text = await asyncio.to_thread(self._service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")


def health_router(endpoints: Endpoints) -> APIRouter:
    """Return the routes for health checks, which need no key."""
    router = APIRouter(tags=["health"])
    add = router.add_api_route
    unready: dict[int | str, dict[str, Any]] = {503: error_response("the server is warming up or shutting down")}
    add("/healthz", endpoints.healthz, response_model=schemas.HealthOut, summary="Is the process alive?")
    add(
        "/readyz", endpoints.readyz, response_model=schemas.HealthOut, responses=unready, summary="Is the server ready?"
    )
    for path, endpoint in (("/healthz", endpoints.healthz), ("/readyz", endpoints.readyz)):
        add(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router


def metrics_router(endpoints: Endpoints, access: AccessControl) -> APIRouter:
    """Return the route for metrics. It needs a key if anonymous callers may do nothing."""
    router = APIRouter(tags=["health"])
    router.add_api_route(
        "/metrics",
        endpoints.metrics,
        dependencies=[access.requires(KeyRole.READ, counted=False)],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: COMMON_ERRORS[401]},
        openapi_extra=dict(SECURED),
        summary="Prometheus metrics",
    )
    return router


def v1_router(endpoints: Endpoints, access: AccessControl) -> APIRouter:
    """Return the routes under /v1."""
    router = APIRouter(prefix="/v1", responses=COMMON_ERRORS)

    def add(
        method: str,
        path: str,
        endpoint: Callable[..., Any],
        summary: str,
        *,
        tag: str = "items",
        role: KeyRole = KeyRole.READ,
        errors: Sequence[int] = (),
        responses: Mapping[int | str, dict[str, Any]] | None = None,
        openapi: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            tags=[tag],
            dependencies=[access.requires(role)],
            responses={**(responses or {}), **{status: ERRORS[status] for status in errors}},
            openapi_extra={**(openapi or {}), **SECURED},
            summary=summary,
            **options,
        )

    by_query = {"parameters": SearchParameters.described()}
    body_errors = (408, 413, 415)
    add(
        "POST",
        "/search",
        endpoints.search_image,
        "Search by image",
        tag="search",
        response_model=schemas.SearchOut,
        errors=body_errors,
        openapi={**image_body(), **by_query},
    )
    add(
        "GET",
        "/search",
        endpoints.search_id,
        "Search by item",
        tag="search",
        response_model=schemas.SearchOut,
        errors=[404],
        openapi={"parameters": ItemSearchParameters.described()},
    )
    add(
        "POST",
        "/search/batch",
        endpoints.search_batch,
        "Search by several images and items",
        tag="search",
        response_model=schemas.BatchOut,
        errors=body_errors,
        openapi={**batch_body(), **by_query},
    )
    add("GET", "/items", endpoints.items, "List ids", response_model=schemas.PageOut)
    add("GET", "/items/{id}", endpoints.item, "Get an item", response_model=schemas.ItemOut, errors=[404])
    add(
        "PUT",
        "/items/{id}",
        endpoints.add,
        "Add an item",
        role=KeyRole.WRITE,
        status_code=201,
        response_model=schemas.AddedOut,
        errors=[403, 409, *body_errors],
        openapi=item_body(),
        responses={200: {"model": schemas.AddedOut, "description": "the same item already existed"}},
    )
    add(
        "DELETE",
        "/items/{id}",
        endpoints.delete,
        "Delete an item",
        role=KeyRole.WRITE,
        status_code=204,
        errors=[403, 404],
    )
    add(
        "GET",
        "/items/{id}/image",
        endpoints.image,
        "Get the indexed file, or its thumbnail",
        response_class=Response,
        errors=[404],
        responses={200: image_response(*IMAGE_TYPES, BYTES)},
    )
    add(
        "GET",
        "/items/{id}/thumbnail",
        endpoints.thumbnail,
        "Get a PNG of at most 96 × 96 px",
        response_class=Response,
        errors=[404],
        responses={200: image_response("image/png")},
    )
    add("GET", "/labels", endpoints.labels, "Count the items of each label", response_model=schemas.LabelsOut)
    add("GET", "/stats", endpoints.stats, "Get models, indexes and limits", tag="stats",
        response_model=schemas.StatsOut)  # fmt: skip
    return router


def _query_of(field: FormField) -> SearchQuery:
    if field.name == "ids" and len(field.content) > 4 * MAX_TEXT:  # UTF-8 has up to 4 bytes per character
        raise FormError(f"A field `ids` has {len(field.content)} bytes; an id has at most {MAX_TEXT} characters.")
    return IdQuery(id=field.text()) if field.name == "ids" else ImageQuery(data=field.content)


def _metadata(field: FormField | None) -> Mapping[str, Scalar]:
    if field is None:
        return {}
    if len(field.content) > _MAX_METADATA_FIELD_BYTES:
        raise InvalidItemError(f"the metadata has {len(field.content)} bytes, above the limit of {MAX_METADATA_BYTES}")
    try:
        # Not orjson, which makes floats of integers above 64 bits.
        content = json.loads(field.text())
    except (ValueError, RecursionError) as error:
        raise InvalidItemError(
            f'the metadata is not valid JSON ({error}); send an object such as {{"price": 3}}'
        ) from error
    if not isinstance(content, dict):
        raise InvalidItemError('the metadata is not a JSON object; send one such as {"price": 3}')
    return content


def _json(content: Mapping[str, Any], *, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


def _file(file: ImageFile, headers: Mapping[str, str]) -> Response:
    return Response(file.data, headers={"Cache-Control": "private, max-age=60", **headers}, media_type=file.media_type)
