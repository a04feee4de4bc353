"""The stages of a search that run for many requests at once: the network, and the index."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.agreement.calibration import Suspicion
from hardrank.serving.agreement.monitor import Hint, Judge
from hardrank.serving.engine import Device
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.store.items import Match

Vector = npt.NDArray[np.float32]

_CPU_CHUNK: Final = 8
"""ResNet-18 at 224 px embeds 15 % more images a second in eights than in thirty-twos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbedJob:
    """An image for one or several networks."""

    models: tuple[str, ...]
    """Keys."""
    pixels: Mapping[Preprocessing, Vector]
    """Float32 (3,H,W) in [0,1], for each preprocessing that one of the models has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Embeddings of an image."""

    vectors: Mapping[str, Vector]
    """(D,) of norm 1, by the model's key."""
    seconds: Mapping[str, float]
    """That each network took for the batch."""


class EmbedStage:
    """Runs batches through the networks, one network after the other, so that they do not fight for the cores."""

    def __init__(self, models: Mapping[str, Model], *, chunk: int = 0) -> None:
        """Take the models; `chunk` images pass a network together (0: see `hardrank.serving.settings.Batching`)."""
        self._models = models
        self._chunk = chunk

    def __call__(self, jobs: Sequence[EmbedJob]) -> list[Embedded | Exception]:
        """Embed the images of `jobs`."""
        vectors: list[dict[str, Vector]] = [{} for _ in jobs]
        seconds: dict[str, float] = {}
        for key, model in self._models.items():
            asked = [number for number, job in enumerate(jobs) if key in job.models]
            if not asked:
                continue
            began = perf_counter()
            chunk = self._chunk or (_CPU_CHUNK if model.engine.device is Device.CPU else len(asked))
            for start in range(0, len(asked), chunk):
                part = asked[start : start + chunk]
                images = [jobs[number].pixels[model.engine.preprocessing] for number in part]
                pixels = np.stack(images) if len(images) > 1 else images[0][None]  # one image is not copied
                for number, vector in zip(part, model.engine.embed(pixels), strict=True):
                    vectors[number][key] = vector
            seconds[key] = perf_counter() - began
        return [Embedded(vectors=own, seconds=seconds) for own in vectors]


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob:
    """A search in one or several indexes."""

    models: tuple[str, ...]
    """Keys."""
    vectors: Mapping[str, Vector] | None = None
    """The query (D,) for each model; None: that of the item `id`."""
    id: str | None = None
    """The item that is the query, itself left out of the answer."""
    k: int
    label: str | None = None
    hint: bool = False
    """Whether to judge how much the two models of the hint disagree; both must be among `models`."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found."""

    matches: Mapping[str, Sequence[Match]]
    """By the model's key, the best first."""
    suspicion: Suspicion | None


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """What can be searched at once: queries that differ in their vectors alone."""

    model: str
    k: int
    label: str | None
    excluding: bool


class SearchStage:
    """Searches the indexes, queries of many requests at once."""

    def __init__(self, models: Mapping[str, Model], hint: Hint | None) -> None:
        self._models = models
        self._hint = hint

    def __call__(self, jobs: Sequence[SearchJob]) -> list[Found | Exception]:
        """Answer `jobs`. What is wrong with one is its own result alone."""
        judge = self._hint.judge if self._hint is not None else None
        asked: dict[_Ask, list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            for ask in _asks(job, judge):
                asked[ask].append(number)
        answers: list[dict[_Ask, Sequence[Match]]] = [{} for _ in jobs]
        errors: dict[int, Exception] = {}
        for ask, numbers in asked.items():
            self._answer(ask, numbers, jobs, answers, errors)
        return [errors.get(number) or _found(job, answers[number], judge) for number, job in enumerate(jobs)]

    def _answer(
        self,
        ask: _Ask,
        numbers: Sequence[int],
        jobs: Sequence[SearchJob],
        answers: Sequence[dict[_Ask, Sequence[Match]]],
        errors: dict[int, Exception],
    ) -> None:
        index = self._models[ask.model].index
        queries: dict[int, Vector] = {}
        for number in numbers:
            try:
                queries[number] = _query(jobs[number], ask.model, index)
            except HardrankError as error:
                errors[number] = error
        if not queries:
            return
        exclude = [jobs[number].id for number in queries] if ask.excluding else []
        try:
            # Every k fitted when its request was taken; items may have been deleted since.
            vectors = np.stack(list(queries.values()))
            found = index.search(vectors, ask.k, label=ask.label, exclude=exclude, fewer=True)
        except Exception as error:
            errors.update(dict.fromkeys(queries, error))
            return
        for number, matches in zip(queries, found, strict=True):
            answers[number][ask] = matches


def _asks(job: SearchJob, judge: Judge | None) -> list[_Ask]:
    """What to search for: what was asked, deep enough for the judge too, who looks at unfiltered rankings alone."""
    compared = judge if job.hint else None
    asks = []
    for key in job.models:
        deep = compared.depth(key) if compared is not None and key in compared.indexes else 0
        k = job.k if job.label is not None else max(job.k, deep)
        asks.append(_Ask(model=key, k=k, label=job.label, excluding=job.id is not None))
        if deep and job.label is not None:
            asks.append(_Ask(model=key, k=deep, label=None, excluding=job.id is not None))
    return asks


def _found(job: SearchJob, answers: Mapping[_Ask, Sequence[Match]], judge: Judge | None) -> Found:
    by_ask = {(ask.model, ask.label): matches for ask, matches in answers.items()}
    suspicion = None
    if job.hint and judge is not None:
        suspicion = judge({key: by_ask[key, None] for key in judge.indexes})
    return Found(matches={key: by_ask[key, job.label][: job.k] for key in job.models}, suspicion=suspicion)


def _query(job: SearchJob, key: str, index: SearchIndex) -> Vector:
    if job.vectors is not None:
        return job.vectors[key]
    assert job.id is not None
    return index.vector(job.id)
