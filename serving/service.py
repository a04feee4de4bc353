"""Search in the indexes of several models, for the API and the page alike.

A query runs through three stages: decoding (a few threads), the network, and the index (one thread each, which work on
the queries of all callers together). No stage blocks the event loop.
"""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from time import perf_counter
from typing import Final, TypeVar

import numpy as np

from models.errors import HardrankError
from models.preprocessing import DecodeLimits, Preprocessing, decode, prepare_image
from serving.answers import ModelAnswer, SearchAnswer, Timings
from serving.batching import Admission, Batcher, Done, ShuttingDownError
from serving.errors import InvalidSearchError
from serving.gallery import Item, NewItem, Scalar, UnknownItemError, check_id
from serving.hints import Hint
from serving.index_stats import IndexStats
from serving.metrics import Metrics, Stage
from serving.settings import Settings
from serving.stages import Embedded, EmbedJob, EmbedStage, Found, Model, SearchJob, SearchStage, Vector
from serving.thumbnails import make_thumbnail
from serving.writing import Writer

Result = TypeVar("Result")

_LOG: Final = logging.getLogger(__name__)
_RESULTS: Final = 10
"""Where the caller does not say."""
_REFRESH_S: Final = 1.0
"""Seconds between looks for what other processes have committed."""
_IMAGE_TYPES: Final[Mapping[bytes, str]] = {
    b"\xff\xd8": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"RIFF": "image/webp",
}


class ServiceError(HardrankError):
    """Models that cannot be served together."""


class UnknownModelError(HardrankError):
    """A model was asked that is not served."""


class NotReadyError(HardrankError):
    """The server is warming up."""


class NoImageError(HardrankError):
    """An item of which neither the file nor a thumbnail is at hand."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageQuery:
    """A search by an image."""

    data: bytes
    """The file's own bytes."""


@dataclass(frozen=True, kw_only=True)
class IdQuery:
    """A search by an item, which is itself left out of the answer."""

    id: str


Query = ImageQuery | IdQuery


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What to search for."""

    k: int | None = None
    """Results for each model, from 1 to the size of its index; None: 10, or all where there are fewer."""
    models: tuple[str, ...] | None = None
    """Keys of the models to ask; None: all."""
    label: str | None = None
    """Only items with this label."""
    suspicion: bool = True
    """Whether to judge how much the two models disagree; possible only where both are asked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFile:
    """An image as it is sent to a caller."""

    data: bytes
    media_type: str
    original: bool
    """Whether these are the bytes that were indexed, and not the thumbnail."""


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """What is served of one model."""

    name: str
    """The bundle's name."""
    defense: str
    """In the paper's notation."""
    sha256: str
    """Of model.onnx."""
    recall_at_1: float | None
    """As the card measured it."""
    ers: float | None
    """Empirical Robustness Score, 0 to 100, as the card measured it."""
    device: str
    """Where the network runs."""
    index: IndexStats


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Options that fit what is served."""

    keys: tuple[str, ...]
    """Of the models to ask."""
    k: int
    label: str | None
    hint: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """A decoded image."""

    pixels: Mapping[Preprocessing, Vector]
    width: int
    height: int
    thumbnail: bytes


class SearchService:
    """The models that are served. One in a process; used from one event loop, between `start` and `close`."""

    def __init__(self, models: Sequence[Model], settings: Settings, metrics: Metrics | None = None) -> None:
        """Take the models, the first of which callers see first; raises `ServiceError` where two share a key."""
        if not models or len({model.key for model in models}) < len(models):
            raise ServiceError(
                f"the models to serve are called {[model.key for model in models]}; give at least one, and names that "
                "differ (KEY:BUNDLE=INDEX)"
            )
        self.models: Mapping[str, Model] = {model.key: model for model in models}
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.hint = _hint(self.models)
        self.admission = Admission(settings.batching.pending)
        self.ready = False
        """Whether everything has run once, so that no caller pays for it."""
        self._limits = settings.limits.decoding
        self._decoders = ThreadPoolExecutor(settings.batching.decoders or cpu_count() or 1, "decode")
        self._writing = ThreadPoolExecutor(1, "write")
        self._writer = Writer({key: model.index for key, model in self.models.items()})
        self._embedding = Batcher[EmbedJob, Embedded](
            EmbedStage(self.models, chunk=settings.batching.chunk),
            name="embed",
            batch=settings.batching.batch,
            wait_s=settings.batching.wait_ms / 1000,
            observe=lambda size, _: self.metrics.batch(size),
        )
        self._searching = Batcher[SearchJob, Found](
            SearchStage(self.models, self.hint), name="search", batch=settings.batching.batch
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._watch()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start the threads and begin to warm up; `ready` tells when that is done."""
        self._embedding.start()
        self._searching.start()
        self._tasks = [asyncio.create_task(self._warm_up()), asyncio.create_task(self._follow())]

    async def close(self) -> None:
        """Answer what was accepted, then end the threads and close the indexes."""
        self._closing = True
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._decoders.shutdown)
        await self._embedding.close()
        await self._searching.close()
        await asyncio.to_thread(self._writing.shutdown)
        for model in self.models.values():
            model.index.close()

    def check_ready(self) -> None:
        """Raise `NotReadyError` while warming up, `ShuttingDownError` at the end."""
        if self._closing:
            raise ShuttingDownError("The server is shutting down; send the request again in a moment.")
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
            return await self._answer(query, plan)

    async def search_many(self, queries: Sequence[Query], options: SearchOptions) -> list[SearchAnswer | HardrankError]:
        """Answer several queries together. What is wrong with one is its own answer; all are admitted, or none."""
        plan = self._plan(options)
        if not 1 <= len(queries) <= self.settings.limits.batch_queries:
            raise InvalidSearchError(
                f"the batch has {len(queries)} queries; give 1 to {self.settings.limits.batch_queries}"
            )
        with self.admission.enter(len(queries)):
            answers = await asyncio.gather(*(self._answer(query, plan) for query in queries), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HardrankError):
                raise answer
        return [answer for answer in answers if isinstance(answer, SearchAnswer | HardrankError)]

    async def _answer(self, query: Query, plan: _Plan) -> SearchAnswer:
        keys = plan.keys
        if isinstance(query, IdQuery):
            job = SearchJob(models=keys, id=query.id, k=plan.k, label=plan.label, hint=plan.hint)
            return self._told(keys, await self._find(job), decode_s=0.0)
        began = perf_counter()
        with self._embedding.expecting():
            prepared = await self._decode(query.data, keys)
            decode_s = perf_counter() - began
        embedded = await self._embed(prepared, keys)
        job = SearchJob(models=keys, vectors=embedded.result.vectors, k=plan.k, label=plan.label, hint=plan.hint)
        return self._told(keys, await self._find(job), decode_s=decode_s, embedded=embedded)

    async def _decode(self, data: bytes, keys: Sequence[str], *, thumbnail: bool = False) -> _Prepared:
        sizes = tuple({self.models[key].engine.preprocessing for key in keys})
        return await self._in(self._decoders, lambda: _prepare(data, sizes, self._limits, thumbnail=thumbnail))

    async def _embed(self, prepared: _Prepared, keys: tuple[str, ...]) -> Done[Embedded]:
        return await self._embedding.submit(EmbedJob(models=keys, pixels=prepared.pixels))

    async def _find(self, job: SearchJob) -> tuple[Found, float]:
        began = perf_counter()
        done = await self._searching.submit(job)
        return done.result, perf_counter() - began

    def _told(
        self,
        keys: Sequence[str],
        found: tuple[Found, float],
        *,
        decode_s: float,
        embedded: Done[Embedded] | None = None,
    ) -> SearchAnswer:
        """Put an answer together, and note how long its stages took."""
        result, search_s = found
        by_model = {
            key: ModelAnswer(
                matches=result.matches[key],
                timings=Timings(
                    decode_ms=1000 * decode_s,
                    queue_ms=1000 * embedded.queued_s if embedded else 0.0,
                    embed_ms=1000 * embedded.result.seconds[key] if embedded else 0.0,
                    search_ms=1000 * search_s,
                ),
            )
            for key in keys
        }
        if embedded is not None:
            self.metrics.stage(Stage.DECODE, decode_s)
            self.metrics.stage(Stage.QUEUE, embedded.queued_s)
            self.metrics.stage(Stage.EMBED, embedded.ran_s)
        self.metrics.stage(Stage.SEARCH, search_s)
        return SearchAnswer(by_model=by_model, suspicion=result.suspicion)

    def _plan(self, options: SearchOptions) -> _Plan:
        """Fit options to what is served; raises where they do not."""
        self.check_ready()
        keys = self.keys(options.models)
        most = min(self.settings.limits.results, *(self.models[key].index.size for key in keys))
        if not most:
            raise InvalidSearchError("the index is empty; add items to it before searching")
        k = min(_RESULTS, most) if options.k is None else options.k
        if not 1 <= k <= most:
            raise InvalidSearchError(f"k is {k}; give a whole number from 1 to {most}")
        hint = options.suspicion and self.hint is not None and self.hint.keys <= set(keys)
        return _Plan(keys=keys, k=k, label=options.label, hint=hint)

    def keys(self, models: Sequence[str] | None) -> tuple[str, ...]:
        """Give the keys of the models that are meant, each once; raises `UnknownModelError`."""
        if models is None:
            return tuple(self.models)
        for key in models:
            if key not in self.models:
                raise UnknownModelError(f"no model is called {key!r}; there are {', '.join(self.models)}")
        return tuple(key for key in self.models if key in models) or tuple(self.models)

    # ------------------------------------------------------------------ items

    async def item(self, id: str) -> Item:
        """Give an item; raises `UnknownItemError`."""
        return await asyncio.to_thread(self._item, id)

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
        return await asyncio.to_thread(self._image, id)

    async def thumbnail(self, id: str) -> ImageFile:
        """Give an item's thumbnail, a PNG; raises as `image`."""
        return await asyncio.to_thread(self._thumbnail, id)

    async def add(
        self, id: str, data: bytes, *, label: str | None = None, metadata: Mapping[str, Scalar] | None = None
    ) -> tuple[Item, bool]:
        """Add an image to the indexes of all models; gives the item, and whether it is new.

        Sent again, the same image changes nothing. Raises `UndecodableImageError`, `InvalidItemError`,
        `DuplicateItemError` where the id belongs to another image, `OverloadedError`.
        """
        self.check_ready()
        check_id(id)
        digest = hashlib.sha256(data).hexdigest()

        def new_item(vector: Vector, prepared: _Prepared) -> NewItem:
            return NewItem(
                id=id,
                vector=vector,
                label=label,
                source_sha256=digest,
                metadata=metadata or {},
                thumbnail=prepared.thumbnail,
                width=prepared.width,
                height=prepared.height,
            )

        # Before the network runs, it is cheap to see what no item can be.
        new_item(np.empty(0, dtype=np.float32), _Prepared(pixels={}, width=0, height=0, thumbnail=b""))
        keys = tuple(self.models)
        with self.admission.enter():
            with self._embedding.expecting():
                prepared = await self._decode(data, keys, thumbnail=True)
            embedded = await self._embed(prepared, keys)
            items = {key: new_item(embedded.result.vectors[key], prepared) for key in keys}
            new = await self._in(self._writing, lambda: self._writer.add(items))
        return await self.item(id), new

    async def delete(self, id: str) -> None:
        """Delete an item from the indexes of all models; raises `UnknownItemError`."""
        self.check_ready()
        with self.admission.enter():
            await self._in(self._writing, lambda: self._writer.delete(id))

    async def stats(self) -> dict[str, ModelStats]:
        """Say what is served, by the model's key."""
        return await asyncio.to_thread(lambda: {key: _stats(model) for key, model in self.models.items()})

    def _item(self, id: str) -> Item:
        return self._holding(id).index.item(id)

    def _image(self, id: str) -> ImageFile:
        data = self._holding(id).index.original(id)
        if data is None:
            return self._thumbnail(id)
        kind = next(
            (kind for start, kind in _IMAGE_TYPES.items() if data.startswith(start)), "application/octet-stream"
        )
        return ImageFile(data=data, media_type=kind, original=True)

    def _thumbnail(self, id: str) -> ImageFile:
        data = self._holding(id).index.thumbnail(id)
        if not data:
            raise NoImageError(f"the item {id!r} has no image at hand: its file is gone, and it has no thumbnail")
        return ImageFile(data=data, media_type="image/png", original=False)

    def _holding(self, id: str) -> Model:
        """Give the first model whose index has the item."""
        for model in self.models.values():
            if model.index.rows([id]):
                return model
        raise UnknownItemError(f"no item has the id {id!r}")

    # ------------------------------------------------------------------ parts

    async def _in(self, pool: ThreadPoolExecutor, act: Callable[[], Result]) -> Result:
        try:
            future = asyncio.get_running_loop().run_in_executor(pool, act)
        except RuntimeError as error:  # the pool has ended
            raise ShuttingDownError("The server is shutting down; send the request again in a moment.") from error
        return await future

    async def _warm_up(self) -> None:
        """Run every size of work once: the first run of a shape is the slow one."""
        try:
            keys = tuple(self.models)
            for size in (1, self.settings.batching.batch):
                jobs = [EmbedJob(models=keys, pixels=_grey(self.models)) for _ in range(size)]
                done = await asyncio.gather(*(self._embedding.submit(job) for job in jobs))
                await self._warm_search(done[0].result.vectors)
            # What is there now stays: the collector need not look at it again and again, with requests waiting.
            gc.collect()
            gc.freeze()
            self.ready = True
        except Exception:
            _LOG.exception("the warm-up failed; the server stays unready")

    async def _warm_search(self, vectors: Mapping[str, Vector]) -> None:
        for key, model in self.models.items():
            if model.index.size:
                await self._searching.submit(SearchJob(models=(key,), vectors=vectors, k=min(10, model.index.size)))

    async def _follow(self) -> None:
        """Take over what other processes commit, and keep the hint up to date."""
        while True:
            try:
                for model in self.models.values():
                    await asyncio.to_thread(model.index.refresh)
                if self.ready and self.hint is not None and self.hint.stale:
                    await asyncio.to_thread(self.hint.calibrate)
            except Exception:
                _LOG.exception("the indexes cannot be refreshed")
            await asyncio.sleep(_REFRESH_S)

    def _watch(self) -> None:
        self.metrics.watch(
            {
                "hardrank_pending": ("Images admitted and not answered yet.", lambda: self.admission.inside),
                "hardrank_queue_length": ("Images that wait for the network.", lambda: self._embedding.waiting),
                "hardrank_ready": ("1 when warmed up.", lambda: self.ready),
            }
        )
        for key, model in self.models.items():
            self.metrics.watch_items(key, lambda index=model.index: index.size)  # type: ignore[misc]


def _hint(models: Mapping[str, Model]) -> Hint | None:
    """Compare `benign` with `robust`, or the two models that there are."""
    chosen = ("benign", "robust") if {"benign", "robust"} <= set(models) else tuple(models)
    return Hint({key: models[key].index for key in chosen}) if len(chosen) == 2 else None


def _prepare(data: bytes, sizes: Sequence[Preprocessing], limits: DecodeLimits, *, thumbnail: bool) -> _Prepared:
    image = decode(data, limits=limits)
    return _Prepared(
        pixels={size: prepare_image(image, size) for size in sizes},
        width=image.width,
        height=image.height,
        thumbnail=make_thumbnail(image) if thumbnail else b"",
    )


def _grey(models: Mapping[str, Model]) -> dict[Preprocessing, Vector]:
    engines = [model.engine for model in models.values()]
    return {engine.preprocessing: np.full(engine.input_shape, 0.5, dtype=np.float32) for engine in engines}


def _stats(model: Model) -> ModelStats:
    card = model.engine.card
    robustness = card.robustness or {}
    return ModelStats(
        name=card.name,
        defense=card.defense,
        sha256=model.engine.model_sha256,
        recall_at_1=card.metrics.get("recall_at_1"),
        ers=robustness.get("ers"),
        device=model.engine.device.value,
        index=model.index.stats(),
    )
