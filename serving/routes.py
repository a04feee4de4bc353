"""What each route of the API does."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from models.errors import HardrankError
from serving import encoding
from serving.callers import Guard
from serving.descriptions import (
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
from serving.gallery import MAX_TEXT, InvalidItemError, Scalar
from serving.item_images import ImageFile
from serving.parameters import ItemSearchParameters, SearchParameters
from serving.problems import problem_of
from serving.queries import IdQuery, ImageQuery
from serving.queries import Query as SearchQuery
from serving.schemas import AddedOut, BatchOut, HealthOut, ItemOut, LabelsOut, PageOut, SearchOut, StatsOut
from serving.security import Role
from serving.service import SearchService
from serving.settings import Settings
from serving.uploads import BYTES, Bodies, ClientGoneError, FormError, Part, read_fields, read_image

Result = TypeVar("Result")

_Id = Annotated[str, Path(max_length=MAX_TEXT, description="1 to 128 printable characters without slashes")]


class Routes:
    """The routes of one server."""

    def __init__(self, service: SearchService, settings: Settings, guard: Guard, *, version: str) -> None:
        self._service = service
        self._settings = settings
        self._guard = guard
        self._version = version
        self._bodies = Bodies(settings.limits)

    def plain(self) -> APIRouter:
        """Health and metrics."""
        router = APIRouter(tags=["health"])
        unready: dict[int | str, dict[str, Any]] = {503: problem("warming up, or shutting down")}
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
        router = APIRouter(prefix="/v1", responses=COMMON)
        add = router.add_api_route
        add(
            "/search",
            self.search_image,
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
            self.search_id,
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
            self.search_batch,
            methods=["POST"],
            tags=["search"],
            dependencies=[reading],
            response_model=BatchOut,
            responses={status: PROBLEMS[status] for status in (408, 413, 415)},
            openapi_extra={**batch_body(), "parameters": SearchParameters.described(), **SECURED},
            summary="Search by several images and items",
        )
        add(
            "/items",
            self.items,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_model=PageOut,
            openapi_extra=SECURED,
            summary="List ids",
        )
        add(
            "/items/{id}",
            self.item,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_model=ItemOut,
            responses={404: PROBLEMS[404]},
            openapi_extra=SECURED,
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
                **{status: PROBLEMS[status] for status in (403, 408, 409, 413, 415)},
            },
            openapi_extra={**item_body(), **SECURED},
            summary="Add an item",
        )
        add(
            "/items/{id}",
            self.delete,
            methods=["DELETE"],
            tags=["items"],
            dependencies=[writing],
            status_code=204,
            responses={status: PROBLEMS[status] for status in (403, 404)},
            openapi_extra=SECURED,
            summary="Delete an item",
        )
        add(
            "/items/{id}/image",
            self.image,
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
            self.thumbnail,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_class=Response,
            responses={200: image_answer("image/png"), 404: PROBLEMS[404]},
            openapi_extra=SECURED,
            summary="A PNG of at most 96 px a side",
        )
        add(
            "/labels",
            self.labels,
            methods=["GET"],
            tags=["items"],
            dependencies=[reading],
            response_model=LabelsOut,
            openapi_extra=SECURED,
            summary="The labels, and how many items each has",
        )
        add(
            "/stats",
            self.stats,
            methods=["GET"],
            tags=["stats"],
            dependencies=[reading],
            response_model=StatsOut,
            openapi_extra=SECURED,
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
        return _json(encoding.stats(await self._service.stats(), self._service, self._version))

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


def _json(content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def _file(file: ImageFile, headers: Mapping[str, str]) -> Response:
    return Response(file.data, headers={"Cache-Control": "private, max-age=60", **headers}, media_type=file.media_type)
