"""The stages of a query: decode, embed, search. None of them blocks the event loop.

Images are decoded in several threads, in turn by caller: larger ones in threads of low priority, and expensive ones in
a process of their own. The networks, the indexes, and searches for many results have threads of their own, which
process the queries of all callers in batches, in turn by caller.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final

import numpy as np

from hardrank.models.cores import usable_cores
from hardrank.models.decode_limits import CostlyImageError
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.agreement.monitor import AgreementMonitor
from hardrank.serving.engine import Device
from hardrank.serving.metrics import Metrics, QueryStage
from hardrank.serving.search.batch_steps import (
    EmbedJob,
    EmbedResult,
    EmbedStep,
    Pixels,
    SearchJob,
    SearchResult,
    SearchStep,
    Vector,
)
from hardrank.serving.search.batching import BatchedResult, Batcher, OneThread
from hardrank.serving.search.decoded_image import DecodedImage, decode_image
from hardrank.serving.search.decoding_process import DecodingProcess
from hardrank.serving.search.models import Model
from hardrank.serving.search.thread_pool import ThreadPool
from hardrank.serving.search.types import ImageQuery, ModelAnswer, Query, ResolvedOptions, SearchAnswer, Timings
from hardrank.serving.settings import Settings

_NICENESS: Final = 19
_IMAGES_OF_THREAD: Final = 4
"""Images that a thread embeds at a time. More would not be faster, and others would wait for longer."""
_CPU_BATCH: Final = 8
"""Most images that the threads of a CPU embed together, likewise, unless it has more than four threads."""
_MAX_LIGHT_PIXELS: Final = 2_000_000
"""Images with more pixels to decode take longer than the network, so the network goes first."""
_MAX_LIGHT_RESULTS: Final = 256
"""Searches for more results, of all models together, take longer, above all with large metadata."""
_LARGE_SEARCHES: Final = 4
"""Most of them at a time."""
_MAX_THREAD_PIXELS: Final = 16_000_000
"""Images with more pixels to decode are expensive, as are those of decoders that make other threads wait."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedImage:
    """An image and its embeddings."""

    image: DecodedImage
    decode_s: float
    """From the bytes to the pixels, including the wait for a decoder."""
    embedded: BatchedResult[EmbedResult]


class Pipeline:
    """The stages for a set of models. Used from one event loop, between `start` and `close`."""

    def __init__(
        self, models: Mapping[str, Model], monitor: AgreementMonitor | None, settings: Settings, metrics: Metrics
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._limits = settings.limits.decoding
        threads = settings.batching.decoders or usable_cores()
        self._decoders = ThreadPool(threads, "decode", spare=1)
        self._slow_decoders = ThreadPool(threads, "decode-slow", spare=1, niceness=_NICENESS)
        self._costly = ThreadPool(1, "decode-costly")
        self._process = DecodingProcess()
        on_cpu = any(model.engine.device is Device.CPU for model in models.values())
        embed = EmbedStep(models)
        one_thread = _one_thread(embed, models, settings.batching.batch)
        most = max(_CPU_BATCH, 2 * one_thread.threads - 1 if one_thread else 0)
        batch = min(settings.batching.batch, most) if on_cpu else settings.batching.batch
        self._full = one_thread.threads * one_thread.batch if one_thread else batch
        self._embedding = Batcher[EmbedJob, EmbedResult](
            embed,
            name="embed",
            batch=batch,
            one_thread=one_thread,
            wait_s=settings.batching.wait_ms / 1000,
            observe=lambda size, _: metrics.batch(size),
        )
        search = SearchStep(models, monitor)
        self._searching = Batcher[SearchJob, SearchResult](search, name="search", batch=settings.batching.batch)
        self._large_searching = Batcher[SearchJob, SearchResult](search, name="search-large", batch=_LARGE_SEARCHES)

    def start(self) -> None:
        """Start the threads. Call once, from the event loop."""
        self._embedding.start()
        self._searching.start()
        self._large_searching.start()

    async def close(self) -> None:
        """Finish the accepted queries, stage by stage, and end the threads."""
        await self._decoders.close()
        await self._slow_decoders.close()
        await self._costly.close()
        self._process.close()
        await self._embedding.close()
        await self._searching.close()
        await self._large_searching.close()

    @property
    def waiting(self) -> int:
        """Number of images waiting for the network."""
        return self._embedding.waiting

    async def answer(self, query: Query, options: ResolvedOptions, *, caller: str = "") -> SearchAnswer:
        """Answer a query; raises as `SearchService.search`."""
        if isinstance(query, ImageQuery):
            image = await self.embed(query.data, options.models, caller=caller)
            vectors, id = image.embedded.result.vectors, None
        else:
            image, vectors, id = None, None, query.id
        job = SearchJob(
            models=options.models,
            vectors=vectors,
            id=id,
            k=options.k,
            label=options.label,
            compare_models=options.compare_models,
        )
        batcher = self._searching if options.k * len(options.models) <= _MAX_LIGHT_RESULTS else self._large_searching
        began = perf_counter()
        found = (await batcher.submit(job, caller=caller)).result
        search_s = perf_counter() - began
        self._observe(image, search_s)
        return SearchAnswer(
            by_model={
                key: ModelAnswer(matches=found.matches[key], timings=_timings(key, image, search_s))
                for key in options.models
            },
            disagreement=found.disagreement,
        )

    async def embed(self, data: bytes, keys: tuple[str, ...], *, thumbnail: int = 0, caller: str = "") -> EmbeddedImage:
        """Decode an image and embed it with the networks of `keys`; raises `UndecodableImageError`.

        `thumbnail` is the side of the thumbnail to make, pixels; 0: none.
        """
        sizes = tuple({self._models[key].engine.preprocessing for key in keys})
        began = perf_counter()
        with self._embedding.expecting():
            image = await self._decode(data, sizes, thumbnail=thumbnail, caller=caller)
            decode_s = perf_counter() - began
        embedded = await self._embedding.submit(EmbedJob(models=keys, pixels=image.pixels), caller=caller)
        return EmbeddedImage(image=image, decode_s=decode_s, embedded=embedded)

    async def _decode(
        self, data: bytes, sizes: Sequence[Preprocessing], *, thumbnail: int, caller: str
    ) -> DecodedImage:
        limits = self._limits
        for pool, most in ((self._decoders, _MAX_LIGHT_PIXELS), (self._slow_decoders, _MAX_THREAD_PIXELS)):
            decode = partial(decode_image, data, sizes, limits, thumbnail=thumbnail, max_work=most)
            with suppress(CostlyImageError):
                return await pool.run(decode, caller=caller)
        return await self._costly.run(
            lambda: self._process.decode(data, sizes, limits, thumbnail=thumbnail), caller=caller
        )

    async def preview(self, data: bytes, side: int, *, caller: str) -> bytes:
        """Return an image as a PNG of at most `side` pixels a side; raises `UndecodableImageError`."""
        return (await self._decode(data, (), thumbnail=side, caller=caller)).thumbnail

    async def warm_up(self) -> None:
        """Run one image, and as many as there is room for at once, because the first run of a shape is slow."""
        keys = tuple(self._models)
        for size in (1, self._full):
            jobs = [EmbedJob(models=keys, pixels=_grey(self._models)) for _ in range(size)]
            done = await asyncio.gather(*(self._embedding.submit(job) for job in jobs))
            await self._warm_up_search(done[0].result.vectors)

    async def _warm_up_search(self, vectors: Mapping[str, Vector]) -> None:
        for key, model in self._models.items():
            if model.index.size:
                await self._searching.submit(SearchJob(models=(key,), vectors=vectors, k=min(10, model.index.size)))

    def _observe(self, image: EmbeddedImage | None, search_s: float) -> None:
        if image is not None:
            self._metrics.stage(QueryStage.DECODE, image.decode_s)
            self._metrics.stage(QueryStage.QUEUE, image.embedded.queued_s)
            self._metrics.stage(QueryStage.EMBED, image.embedded.ran_s)
        self._metrics.stage(QueryStage.SEARCH, search_s)


def _one_thread(embed: EmbedStep, models: Mapping[str, Model], batch: int) -> OneThread[EmbedJob, EmbedResult] | None:
    engines = [model.engine for model in models.values()]
    if not all(engine.side_by_side for engine in engines):
        return None
    threads = min(engine.threads for engine in engines)
    return OneThread(run=embed.in_one_thread, threads=threads, batch=min(batch, _IMAGES_OF_THREAD))


def _timings(key: str, image: EmbeddedImage | None, search_s: float) -> Timings:
    if image is None:
        return Timings(search_ms=1000 * search_s)
    return Timings(
        decode_ms=1000 * image.decode_s,
        queue_ms=1000 * image.embedded.queued_s,
        embed_ms=1000 * image.embedded.result.seconds[key],
        search_ms=1000 * search_s,
    )


def _grey(models: Mapping[str, Model]) -> dict[Preprocessing, Pixels]:
    engines = [model.engine for model in models.values()]
    return {engine.preprocessing: np.full(engine.input_shape, 128, dtype=np.uint8) for engine in engines}
