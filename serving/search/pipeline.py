"""The way of a query through its stages, none of which blocks the event loop.

Images are decoded in a few threads. The networks have one thread, the indexes another; both work on the queries of all
callers together.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import cpu_count
from time import perf_counter

import numpy as np

from hardrank.models.preprocessing import DecodeLimits, Preprocessing, decode, prepare_image
from hardrank.serving.agreement.monitor import Hint
from hardrank.serving.metrics import Metrics, Stage
from hardrank.serving.search.answers import ModelAnswer, SearchAnswer, Timings
from hardrank.serving.search.batch_steps import Embedded, EmbedJob, EmbedStage, Found, SearchJob, SearchStage, Vector
from hardrank.serving.search.batching import Batcher, Done
from hardrank.serving.search.models import Model
from hardrank.serving.search.pool import Pool
from hardrank.serving.search.types import ImageQuery, Plan, Query
from hardrank.serving.settings import Settings
from hardrank.serving.store.thumbnails import make_thumbnail


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A decoded image."""

    pixels: Mapping[Preprocessing, Vector]
    """Float32 (3,H,W) in [0,1], for each preprocessing that was asked for."""
    width: int
    height: int
    thumbnail: bytes
    """PNG; empty where none was asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """An image that the networks have seen."""

    image: Decoded
    decode_s: float
    """From the bytes to the pixels, waiting for a decoder included."""
    embedded: Done[Embedded]


class Pipeline:
    """The stages for a set of models. Used from one event loop, between `start` and `close`."""

    def __init__(self, models: Mapping[str, Model], hint: Hint | None, settings: Settings, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics
        self._limits = settings.limits.decoding
        self._batch = settings.batching.batch
        self._decoders = Pool(settings.batching.decoders or cpu_count() or 1, "decode")
        self._embedding = Batcher[EmbedJob, Embedded](
            EmbedStage(models, chunk=settings.batching.chunk),
            name="embed",
            batch=settings.batching.batch,
            wait_s=settings.batching.wait_ms / 1000,
            observe=lambda size, _: metrics.batch(size),
        )
        self._searching = Batcher[SearchJob, Found](
            SearchStage(models, hint), name="search", batch=settings.batching.batch
        )

    def start(self) -> None:
        """Start the threads; called once, in the event loop."""
        self._embedding.start()
        self._searching.start()

    async def close(self) -> None:
        """Finish what was accepted, stage after stage, and end the threads."""
        await self._decoders.close()
        await self._embedding.close()
        await self._searching.close()

    @property
    def waiting(self) -> int:
        """Images that wait for the network."""
        return self._embedding.waiting

    async def answer(self, query: Query, plan: Plan) -> SearchAnswer:
        """Answer a query; raises as `SearchService.search_image` and `SearchService.search_id`."""
        if isinstance(query, ImageQuery):
            seen = await self.see(query.data, plan.keys)
            vectors, id = seen.embedded.result.vectors, None
        else:
            seen, vectors, id = None, None, query.id
        job = SearchJob(models=plan.keys, vectors=vectors, id=id, k=plan.k, label=plan.label, hint=plan.hint)
        began = perf_counter()
        found = (await self._searching.submit(job)).result
        search_s = perf_counter() - began
        self._note(seen, search_s)
        return _answer(plan.keys, seen, found, search_s)

    async def see(self, data: bytes, keys: tuple[str, ...], *, thumbnail: bool = False) -> Seen:
        """Decode an image and embed it with the networks of `keys`; raises `UndecodableImageError`."""
        sizes = tuple({self._models[key].engine.preprocessing for key in keys})
        began = perf_counter()
        with self._embedding.expecting():
            image = await self._decoders.run(lambda: _decoded(data, sizes, self._limits, thumbnail=thumbnail))
            decode_s = perf_counter() - began
        embedded = await self._embedding.submit(EmbedJob(models=keys, pixels=image.pixels))
        return Seen(image=image, decode_s=decode_s, embedded=embedded)

    async def warm_up(self) -> None:
        """Run every size of work once: the first run of a shape is the slow one."""
        keys = tuple(self._models)
        for size in (1, self._batch):
            jobs = [EmbedJob(models=keys, pixels=_grey(self._models)) for _ in range(size)]
            done = await asyncio.gather(*(self._embedding.submit(job) for job in jobs))
            await self._warm_search(done[0].result.vectors)

    async def _warm_search(self, vectors: Mapping[str, Vector]) -> None:
        for key, model in self._models.items():
            if model.index.size:
                await self._searching.submit(SearchJob(models=(key,), vectors=vectors, k=min(10, model.index.size)))

    def _note(self, seen: Seen | None, search_s: float) -> None:
        """Note how long the stages took."""
        if seen is not None:
            self._metrics.stage(Stage.DECODE, seen.decode_s)
            self._metrics.stage(Stage.QUEUE, seen.embedded.queued_s)
            self._metrics.stage(Stage.EMBED, seen.embedded.ran_s)
        self._metrics.stage(Stage.SEARCH, search_s)


def _answer(keys: Sequence[str], seen: Seen | None, found: Found, search_s: float) -> SearchAnswer:
    return SearchAnswer(
        by_model={key: ModelAnswer(matches=found.matches[key], timings=_timings(key, seen, search_s)) for key in keys},
        suspicion=found.suspicion,
    )


def _timings(key: str, seen: Seen | None, search_s: float) -> Timings:
    if seen is None:
        return Timings(search_ms=1000 * search_s)
    return Timings(
        decode_ms=1000 * seen.decode_s,
        queue_ms=1000 * seen.embedded.queued_s,
        embed_ms=1000 * seen.embedded.result.seconds[key],
        search_ms=1000 * search_s,
    )


def _decoded(data: bytes, sizes: Sequence[Preprocessing], limits: DecodeLimits, *, thumbnail: bool) -> Decoded:
    image = decode(data, limits=limits)
    return Decoded(
        pixels={size: prepare_image(image, size) for size in sizes},
        width=image.width,
        height=image.height,
        thumbnail=make_thumbnail(image) if thumbnail else b"",
    )


def _grey(models: Mapping[str, Model]) -> dict[Preprocessing, Vector]:
    engines = [model.engine for model in models.values()]
    return {engine.preprocessing: np.full(engine.input_shape, 0.5, dtype=np.float32) for engine in engines}
