"""What each route of the API does."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import orjson
from fastapi import Path, Query, Request, Response

from hardrank.models.errors import HardrankError
from hardrank.serving.api import encoding
from hardrank.serving.api.access import Guard
from hardrank.serving.api.attending import attended
from hardrank.serving.api.bodies import Bodies, FormError, Part, read_fields, read_image
from hardrank.serving.api.parameters import ItemSearchParameters, SearchParameters
from hardrank.serving.api.problems import problem_of
from hardrank.serving.search.item_images import ImageFile
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import IdQuery, ImageQuery
from hardrank.serving.search.types import Query as SearchQuery
from hardrank.serving.settings import Settings
from hardrank.serving.store.items import MAX_TEXT, InvalidItemError, Scalar

_Id = Annotated[str, Path(max_length=MAX_TEXT, description="1 to 128 printable characters without slashes")]


class Handlers:
    """The handlers of one server. Who may call them is not their matter: the routes see to it."""

    def __init__(self, service: SearchService, settings: Settings, guard: Guard, *, version: str) -> None:
        self._service = service
        self._settings = settings
        self._guard = guard
        self._version = version
        self._bodies = Bodies(settings.limits)

    # ------------------------------------------------------------------ search

    async def search_image(self, request: Request) -> Response:
        """Find the items most similar to an image: the body is the file, or a form with the field `image`."""
        options = SearchParameters.of(request).options()
        async with self._bodies.read(request) as body:
            data = await read_image(body, request)
            answer = await attended(request, self._service.search(ImageQuery(data=data), options))
        return _json(encoding.search(answer), headers=encoding.server_timing(answer))

    async def search_id(self, request: Request) -> Response:
        """Find the items most similar to an indexed one."""
        asked = ItemSearchParameters.of(request)
        answer = await attended(request, self._service.search(IdQuery(id=asked.id), asked.options()))
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
            answers = await attended(request, self._service.search_many(queries, options))
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
            item, new = await attended(
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
