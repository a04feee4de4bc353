"""The search service behind the API and the page: one or more models, their indexes, and everything asked of them."""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from hardrank.models.errors import HardrankError
from hardrank.serving.agreement.monitor import monitor_for
from hardrank.serving.metrics import Metrics
from hardrank.serving.search.admission import Admission, NotReadyError, ShuttingDownError
from hardrank.serving.search.item_images import ImageFile, image_of, thumbnail_of
from hardrank.serving.search.item_writer import ItemWriter
from hardrank.serving.search.models import Model, ModelStats, first_with_item, models_by_key, select_keys
from hardrank.serving.search.pipeline import Pipeline
from hardrank.serving.search.thread_pool import ThreadPool
from hardrank.serving.search.types import IdPage, Query, ResolvedOptions, SearchAnswer, SearchOptions
from hardrank.serving.settings import Settings
from hardrank.serving.store.errors import InvalidSearchError, trace_of
from hardrank.serving.store.items import Item, NewItem, Scalar
from hardrank.serving.store.thumbnails import THUMBNAIL_SIDE

Result = TypeVar("Result")

_LOG: Final = logging.getLogger(__name__)
_DEFAULT_RESULTS: Final = 10
_MOST_ANSWER_BYTES: Final = 64 * 2**20
"""Of the results that one request gets: of all its queries, with their metadata."""
_REFRESH_S: Final = 1.0
"""Seconds between checks for changes that other processes committed."""


class SearchService:
    """The served models. One per process; used from one event loop, between `start` and `close`."""

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        """Take the models in the order in which callers see them, and repair what a killed process left.

        Raises `ServiceError` if two share a key, and the errors of an index if it cannot be repaired.
        """
        self.models: Mapping[str, Model] = models_by_key(models)
        self.settings = settings
        self.metrics = Metrics()
        indexes = {key: model.index for key, model in self.models.items()}
        self.monitor = monitor_for(indexes)
        """Usual agreement of two models; None if there are not two to compare."""
        self.admission = Admission(settings.batching.pending)
        self.ready = False
        """Whether the warm-up is done."""
        self._pipeline = Pipeline(self.models, self.monitor, settings, self.metrics)
        self._writer = ItemWriter(indexes)
        self._writer.repair()
        self._write_thread = ThreadPool(1, "write")
        self._answer_thread = ThreadPool(1, "answer")
        self._counting = asyncio.Lock()
        self._counted: tuple[int, dict[str, int]] | None = None
        """The last answer of `labels`, after the generation of the index that it is for."""
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._add_gauges()

    # ------------------------------------------------------------------ life cycle

    def start(self) -> None:
        """Start the threads and the warm-up; `ready` becomes true when it is done."""
        self._pipeline.start()
        self._tasks = [asyncio.create_task(self._warm_up()), asyncio.create_task(self._refresh_forever())]

    async def close(self) -> None:
        """Answer the accepted requests, then end the threads and close the indexes."""
        self._closing = True
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pipeline.close()
        await self._write_thread.close()
        await self._answer_thread.close()
        for model in self.models.values():
            model.index.close()

    def check_ready(self) -> None:
        """Raise `NotReadyError` during the warm-up, `ShuttingDownError` after `close`."""
        if self._closing:
            raise ShuttingDownError
        if not self.ready:
            raise NotReadyError("The server is warming up; send the request again in a second.")

    # ------------------------------------------------------------------ search

    async def search(self, query: Query, options: SearchOptions, *, caller: str = "") -> SearchAnswer:
        """Find the items most similar to an image or to an indexed item.

        Callers with a name share decoders and pending queries fairly.

        Raises `UndecodableImageError`, `UnknownItemError`, `InvalidSearchError`, `UnknownLabelError`,
        `UnknownModelError`, `OverloadedError`.
        """
        resolved = self._resolve(options)
        with self.admission.enter(caller=caller):
            answer = await self._pipeline.answer(query, resolved, caller=caller)
        if answer.size > _MOST_ANSWER_BYTES:
            raise _too_large()
        return answer

    async def search_many(
        self, queries: Sequence[Query], options: SearchOptions, *, caller: str = ""
    ) -> list[SearchAnswer | HardrankError]:
        """Answer several queries: all are admitted or none. An error of one query is returned in its place."""
        resolved = self._resolve(options)
        if not 1 <= len(queries) <= self.settings.limits.batch_queries:
            raise InvalidSearchError(
                f"the batch has {len(queries)} queries; send 1 to {self.settings.limits.batch_queries}"
            )
        size = 0

        async def search(query: Query) -> SearchAnswer | HardrankError:
            nonlocal size
            answer = await self._pipeline.answer(query, resolved, caller=caller)
            size += answer.size
            # Returned, not raised: the traceback of an error would keep the answer in memory.
            return answer if size <= _MOST_ANSWER_BYTES else _too_large()

        with self.admission.enter(len(queries), caller=caller):
            answers = await asyncio.gather(*map(search, queries), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HardrankError):
                raise answer
        return [answer for answer in answers if isinstance(answer, SearchAnswer | HardrankError)]

    async def in_turn(self, work: Callable[[], Result], *, caller: str) -> Result:
        """Run work on a large answer in a thread: one at a time, in turn by caller."""
        return await self._answer_thread.run(work, caller=caller)

    def _resolve(self, options: SearchOptions) -> ResolvedOptions:
        """Check options against the served models and fill in the defaults."""
        self.check_ready()
        keys = select_keys(self.models, options.models)
        most = min(self.settings.limits.results, *(self.models[key].index.size for key in keys))
        if not most:
            raise InvalidSearchError("the index is empty; add items to it before searching")
        k = min(_DEFAULT_RESULTS, most) if options.k is None else options.k
        if not 1 <= k <= most:
            raise InvalidSearchError(f"k is {k}; use a whole number from 1 to {most}")
        compare = options.compare_models and self.monitor is not None and self.monitor.keys <= set(keys)
        return ResolvedOptions(models=keys, k=k, label=options.label, compare_models=compare)

    # ------------------------------------------------------------------ items

    async def item(self, id: str) -> Item:
        """Return an item; raises `UnknownItemError`."""
        return await asyncio.to_thread(lambda: first_with_item(self.models, id).index.item(id))

    async def list_ids(self, *, start: int, after: int | None, count: int, label: str | None) -> IdPage:
        """Return a page of ids of the first model's index, in order of addition.

        Args:
            start: Ids to skip; ignored with `after`.
            after: Row of the last item of the page before, or None to skip `start` ids. Only with `after` do additions
                and deletions between two pages neither skip nor repeat an item.
            count: Largest number of ids.
            label: Return only items with this label.
        """
        index = next(iter(self.models.values())).index

        def read() -> IdPage:
            if after is None:
                ids = index.ids(start=start, count=count, label=label)
                return IdPage(ids, index.rows(ids[-1:]).get(ids[-1]) if ids else None)
            items = index.list_items(after=after, count=count, label=label)
            return IdPage([item.id for item in items], items[-1].row if items else None)

        return await asyncio.to_thread(read)

    async def labels(self) -> dict[str, int]:
        """Count the items of each label in the first model's index, once for each state of it."""
        index = next(iter(self.models.values())).index
        async with self._counting:
            generation = index.generation  # before the labels, which may be newer but never older
            if self._counted is None or self._counted[0] != generation:
                self._counted = generation, await asyncio.to_thread(index.labels)
            return self._counted[1]

    async def image(self, id: str) -> ImageFile:
        """Return the file of an item, or its thumbnail if the file was deleted or has changed.

        Raises `UnknownItemError`, and `NoImageError` if there is no thumbnail either.
        """
        return await asyncio.to_thread(lambda: image_of(first_with_item(self.models, id).index, id))

    async def preview(self, data: bytes, side: int, *, caller: str = "") -> bytes:
        """Return an image file as a PNG of at most `side` pixels a side; raises `UndecodableImageError`."""
        with self.admission.enter(caller=caller):
            return await self._pipeline.preview(data, side, caller=caller)

    async def thumbnail(self, id: str) -> ImageFile:
        """Return the thumbnail of an item, a PNG; raises as `image`."""
        return await asyncio.to_thread(lambda: thumbnail_of(first_with_item(self.models, id).index, id))

    async def add(
        self,
        id: str,
        data: bytes,
        *,
        label: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        caller: str = "",
    ) -> tuple[Item, bool]:
        """Add an image to the indexes of all models; returns the item, and whether it is new.

        Adding the same image again changes nothing. Raises `UndecodableImageError`, `InvalidItemError`,
        `DuplicateItemError` if the id belongs to another image, `OverloadedError`.
        """
        self.check_ready()
        # Making the item now rejects an invalid id, label or metadata before the network runs.
        draft = NewItem(
            id=id,
            vector=np.empty(0, dtype=np.float32),
            label=label,
            source_sha256=hashlib.sha256(data).hexdigest(),
            metadata=metadata or {},
        )
        with self.admission.enter(caller=caller):
            embedded = await self._pipeline.embed(data, tuple(self.models), thumbnail=THUMBNAIL_SIDE, caller=caller)
            image = embedded.image
            items = {
                key: replace(draft, vector=vector, thumbnail=image.thumbnail, width=image.width, height=image.height)
                for key, vector in embedded.embedded.result.vectors.items()
            }
            new = await self._write_thread.run(lambda: self._writer.add(items), caller=caller)
        return await self.item(id), new

    async def delete(self, id: str, *, caller: str = "") -> None:
        """Delete an item from the indexes of all models; raises `UnknownItemError`, `OverloadedError`."""
        self.check_ready()
        with self.admission.enter(caller=caller):
            await self._write_thread.run(lambda: self._writer.delete(id), caller=caller)

    async def stats(self) -> dict[str, ModelStats]:
        """Return what is served, by model key."""
        return await asyncio.to_thread(lambda: {key: model.stats() for key, model in self.models.items()})

    # ------------------------------------------------------------------ background tasks

    async def _warm_up(self) -> None:
        try:
            await self._pipeline.warm_up()
            # What is allocated now stays for good: the collector need not scan it again while requests wait.
            gc.collect()
            gc.freeze()
            self.ready = True
        except Exception:
            _LOG.exception("the warm-up failed; the server stays unready")

    async def _refresh_forever(self) -> None:
        """Load what other processes commit to the indexes; once ready, keep the usual agreement up to date."""
        said = ""
        while True:
            try:
                for model in self.models.values():
                    await asyncio.to_thread(model.index.refresh)
                if self.ready and self.monitor is not None and self.monitor.stale:
                    await asyncio.to_thread(self.monitor.calibrate)
                said = ""
            except Exception as error:
                if str(error) != said:  # the same error every second would fill the log
                    _LOG.error("the indexes cannot be refreshed now: %s", error, exc_info=trace_of(error))
                said = str(error)
            await asyncio.sleep(_REFRESH_S)

    def _add_gauges(self) -> None:
        self.metrics.add_gauges(
            {
                "hardrank_pending": ("Images admitted but not answered yet.", lambda: self.admission.pending),
                "hardrank_queue_length": ("Images waiting for the network.", lambda: self._pipeline.waiting),
                "hardrank_ready": ("1 after the warm-up.", lambda: self.ready),
            }
        )
        for key, model in self.models.items():
            self.metrics.add_item_gauge(key, lambda index=model.index: index.size)  # type: ignore[misc]


def _too_large() -> InvalidSearchError:
    return InvalidSearchError(
        f"the results have more than {_MOST_ANSWER_BYTES >> 20} MiB with their metadata; use a smaller k, or fewer "
        "queries in a batch"
    )
