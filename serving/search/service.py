"""Search in the indexes of several models, for the API and the page alike."""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from hardrank.models.errors import HardrankError
from hardrank.serving.agreement.monitor import hint_of
from hardrank.serving.metrics import Metrics
from hardrank.serving.search.admission import Admission, NotReadyError, ShuttingDownError
from hardrank.serving.search.answers import SearchAnswer
from hardrank.serving.search.following import follow
from hardrank.serving.search.item_images import ImageFile, image_of, thumbnail_of
from hardrank.serving.search.models import Model, ModelStats, by_key, chosen, holding
from hardrank.serving.search.pipeline import Pipeline
from hardrank.serving.search.pool import Pool
from hardrank.serving.search.types import IdQuery, ImageQuery, Plan, Query, SearchOptions
from hardrank.serving.search.writing import Writer
from hardrank.serving.settings import Settings
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import Item, NewItem, Scalar

_LOG: Final = logging.getLogger(__name__)
_RESULTS: Final = 10
"""Where the caller does not say."""


class SearchService:
    """The models that are served. One in a process; used from one event loop, between `start` and `close`."""

    def __init__(self, models: Sequence[Model], settings: Settings, metrics: Metrics | None = None) -> None:
        """Take the models, the first of which callers see first; raises `ServiceError` where two share a key."""
        self.models: Mapping[str, Model] = by_key(models)
        self.settings = settings
        self.metrics = metrics or Metrics()
        indexes = {key: model.index for key, model in self.models.items()}
        self.hint = hint_of(indexes)
        self.admission = Admission(settings.batching.pending)
        self.ready = False
        """Whether everything has run once, so that no caller pays for it."""
        self._pipeline = Pipeline(self.models, self.hint, settings, self.metrics)
        self._writer = Writer(indexes)
        self._writing = Pool(1, "write")
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._watch()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start the threads and begin to warm up; `ready` tells when that is done."""
        self._pipeline.start()
        following = follow(self.models, self.hint, is_ready=lambda: self.ready)
        self._tasks = [asyncio.create_task(self._warm_up()), asyncio.create_task(following)]

    async def close(self) -> None:
        """Answer what was accepted, then end the threads and close the indexes."""
        self._closing = True
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pipeline.close()
        await self._writing.close()
        for model in self.models.values():
            model.index.close()

    def check_ready(self) -> None:
        """Raise `NotReadyError` while warming up, `ShuttingDownError` at the end."""
        if self._closing:
            raise ShuttingDownError
        if not self.ready:
            raise NotReadyError("The server is warming up; send the request again in a second.")

    # ------------------------------------------------------------------ searching

    async def search_image(
        self,
        data: bytes,
        *,
        k: int | None = None,
        models: Sequence[str] | None = None,
        label: str | None = None,
        suspicion: bool = True,
    ) -> SearchAnswer:
        """Find the items most similar to an image, given as the bytes of its file.

        Raises `UndecodableImageError`, `InvalidSearchError`, `UnknownLabelError`, `UnknownModelError`,
        `OverloadedError`.
        """
        options = SearchOptions(k=k, models=None if models is None else tuple(models), label=label, suspicion=suspicion)
        return await self.search(ImageQuery(data=data), options)

    async def search_id(
        self,
        id: str,
        *,
        k: int | None = None,
        models: Sequence[str] | None = None,
        label: str | None = None,
        suspicion: bool = True,
    ) -> SearchAnswer:
        """Find the items most similar to an indexed one, itself left out; raises `UnknownItemError` too."""
        options = SearchOptions(k=k, models=None if models is None else tuple(models), label=label, suspicion=suspicion)
        return await self.search(IdQuery(id=id), options)

    async def search(self, query: Query, options: SearchOptions) -> SearchAnswer:
        """Answer a query; raises as `search_image` and `search_id`."""
        plan = self._plan(options)
        with self.admission.enter():
            return await self._pipeline.answer(query, plan)

    async def search_many(self, queries: Sequence[Query], options: SearchOptions) -> list[SearchAnswer | HardrankError]:
        """Answer several queries together. What is wrong with one is its own answer; all are admitted, or none."""
        plan = self._plan(options)
        if not 1 <= len(queries) <= self.settings.limits.batch_queries:
            raise InvalidSearchError(
                f"the batch has {len(queries)} queries; give 1 to {self.settings.limits.batch_queries}"
            )
        with self.admission.enter(len(queries)):
            answers = await asyncio.gather(
                *(self._pipeline.answer(query, plan) for query in queries), return_exceptions=True
            )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HardrankError):
                raise answer
        return [answer for answer in answers if isinstance(answer, SearchAnswer | HardrankError)]

    def _plan(self, options: SearchOptions) -> Plan:
        """Fit options to what is served; raises where they do not."""
        self.check_ready()
        keys = chosen(self.models, options.models)
        most = min(self.settings.limits.results, *(self.models[key].index.size for key in keys))
        if not most:
            raise InvalidSearchError("the index is empty; add items to it before searching")
        k = min(_RESULTS, most) if options.k is None else options.k
        if not 1 <= k <= most:
            raise InvalidSearchError(f"k is {k}; give a whole number from 1 to {most}")
        hint = options.suspicion and self.hint is not None and self.hint.keys <= set(keys)
        return Plan(keys=keys, k=k, label=options.label, hint=hint)

    # ------------------------------------------------------------------ items

    async def item(self, id: str) -> Item:
        """Give an item; raises `UnknownItemError`."""
        return await asyncio.to_thread(lambda: holding(self.models, id).index.item(id))

    async def ids(self, *, start: int = 0, count: int = 100, label: str | None = None) -> list[str]:
        """Give ids in the order of addition to the first model's index."""
        first = next(iter(self.models.values()))
        return await asyncio.to_thread(first.index.ids, start=start, count=count, label=label)

    async def labels(self) -> dict[str, int]:
        """Count the items of each label in the first model's index."""
        first = next(iter(self.models.values()))
        return await asyncio.to_thread(first.index.labels)

    async def image(self, id: str) -> ImageFile:
        """Give the file that an item was made of, or its thumbnail where that is gone or has changed.

        Raises `UnknownItemError`, and `NoImageError` where there is no thumbnail either.
        """
        return await asyncio.to_thread(lambda: image_of(holding(self.models, id).index, id))

    async def thumbnail(self, id: str) -> ImageFile:
        """Give an item's thumbnail, a PNG; raises as `image`."""
        return await asyncio.to_thread(lambda: thumbnail_of(holding(self.models, id).index, id))

    async def add(
        self, id: str, data: bytes, *, label: str | None = None, metadata: Mapping[str, Scalar] | None = None
    ) -> tuple[Item, bool]:
        """Add an image to the indexes of all models; gives the item, and whether it is new.

        Sent again, the same image changes nothing. Raises `UndecodableImageError`, `InvalidItemError`,
        `DuplicateItemError` where the id belongs to another image, `OverloadedError`.
        """
        self.check_ready()
        # Before the network runs, it is cheap to see what no item can be.
        draft = NewItem(
            id=id,
            vector=np.empty(0, dtype=np.float32),
            label=label,
            source_sha256=hashlib.sha256(data).hexdigest(),
            metadata=metadata or {},
        )
        with self.admission.enter():
            seen = await self._pipeline.see(data, tuple(self.models), thumbnail=True)
            image = seen.image
            items = {
                key: replace(draft, vector=vector, thumbnail=image.thumbnail, width=image.width, height=image.height)
                for key, vector in seen.embedded.result.vectors.items()
            }
            new = await self._writing.run(lambda: self._writer.add(items))
        return await self.item(id), new

    async def delete(self, id: str) -> None:
        """Delete an item from the indexes of all models; raises `UnknownItemError`."""
        self.check_ready()
        with self.admission.enter():
            await self._writing.run(lambda: self._writer.delete(id))

    async def stats(self) -> dict[str, ModelStats]:
        """Say what is served, by the model's key."""
        return await asyncio.to_thread(lambda: {key: model.stats() for key, model in self.models.items()})

    # ------------------------------------------------------------------ parts

    async def _warm_up(self) -> None:
        try:
            await self._pipeline.warm_up()
            # What is there now stays: the collector need not look at it again and again, with requests waiting.
            gc.collect()
            gc.freeze()
            self.ready = True
        except Exception:
            _LOG.exception("the warm-up failed; the server stays unready")

    def _watch(self) -> None:
        self.metrics.watch(
            {
                "hardrank_pending": ("Images admitted and not answered yet.", lambda: self.admission.inside),
                "hardrank_queue_length": ("Images that wait for the network.", lambda: self._pipeline.waiting),
                "hardrank_ready": ("1 when warmed up.", lambda: self.ready),
            }
        )
        for key, model in self.models.items():
            self.metrics.watch_items(key, lambda index=model.index: index.size)  # type: ignore[misc]
