"""The two steps of a search that run on batches of queries from many requests: the networks, then the indexes."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing
from hardrank.serving.agreement.calibration import Disagreement
from hardrank.serving.agreement.monitor import AgreementMonitor, Comparison
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.store.items import Match

Vector = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbedJob:
    """One image for one or more networks."""

    models: tuple[str, ...]
    """Keys of the models."""
    pixels: Mapping[Preprocessing, Pixels]
    """(3,H,W), for each preprocessing of these models."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbedResult:
    """Embeddings of one image."""

    vectors: Mapping[str, Vector]
    """(D,) of norm 1, by model key."""
    seconds: Mapping[str, float]
    """Time of each network for the whole batch, by model key."""


class EmbedStep:
    """Runs a batch through the networks, one network after the other so that they do not compete for cores.

    Call it to use all threads of the networks, or `in_one_thread` from several threads.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def __call__(self, jobs: Sequence[EmbedJob]) -> list[EmbedResult | Exception]:
        """Embed the images of `jobs`."""
        return self._embed(jobs, lambda engine: engine.embed)

    def in_one_thread(self, jobs: Sequence[EmbedJob]) -> list[EmbedResult | Exception]:
        """Embed the images of `jobs` in the calling thread; the engines must be `Engine.side_by_side`."""
        return self._embed(jobs, lambda engine: engine.embed_in_one_thread)

    def _embed(
        self, jobs: Sequence[EmbedJob], method: Callable[[Engine], Callable[[Pixels], Vector]]
    ) -> list[EmbedResult | Exception]:
        vectors: list[dict[str, Vector]] = [{} for _ in jobs]
        seconds: dict[str, float] = {}
        for key, model in self._models.items():
            numbers = [number for number, job in enumerate(jobs) if key in job.models]
            if not numbers:
                continue
            began = perf_counter()
            pixels = np.stack([jobs[number].pixels[model.engine.preprocessing] for number in numbers])
            for number, vector in zip(numbers, method(model.engine)(pixels), strict=True):
                vectors[number][key] = vector
            seconds[key] = perf_counter() - began
        return [EmbedResult(vectors=own, seconds=seconds) for own in vectors]


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob:
    """A search in one or more indexes."""

    models: tuple[str, ...]
    """Keys of the models."""
    vectors: Mapping[str, Vector] | None = None
    """The query (D,) by model key; None: the vector of the item `id`."""
    id: str | None = None
    """The item to search with, left out of its own results."""
    k: int
    label: str | None = None
    compare_models: bool = False
    """Whether to measure the disagreement of the two monitored models; both must be among `models`."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Matches of one job."""

    matches: Mapping[str, Sequence[Match]]
    """By model key, best first."""
    disagreement: Disagreement | None


@dataclass(frozen=True, kw_only=True)
class _IndexSearch:
    """A search of one index; jobs that need the same one are searched together."""

    model: str
    k: int
    label: str | None
    excluding: bool


class SearchStep:
    """Searches the indexes for the queries of many requests at once."""

    def __init__(self, models: Mapping[str, Model], monitor: AgreementMonitor | None) -> None:
        self._models = models
        self._monitor = monitor

    def __call__(self, jobs: Sequence[SearchJob]) -> list[SearchResult | Exception]:
        """Answer `jobs`. An error of one job does not affect the others."""
        comparison = self._monitor.comparison if self._monitor is not None else None
        searches: dict[_IndexSearch, list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            for search in _searches(job, comparison):
                searches[search].append(number)
        answers: list[dict[_IndexSearch, Sequence[Match]]] = [{} for _ in jobs]
        errors: dict[int, Exception] = {}
        for search, numbers in searches.items():
            self._search(search, numbers, jobs, answers, errors)
        return [errors.get(number) or _result(job, answers[number], comparison) for number, job in enumerate(jobs)]

    def _search(
        self,
        search: _IndexSearch,
        numbers: Sequence[int],
        jobs: Sequence[SearchJob],
        answers: Sequence[dict[_IndexSearch, Sequence[Match]]],
        errors: dict[int, Exception],
    ) -> None:
        index = self._models[search.model].index
        queries: dict[int, Vector] = {}
        for number in numbers:
            try:
                queries[number] = _query(jobs[number], search.model, index)
            except HardrankError as error:
                errors[number] = error
        if not queries:
            return
        exclude = [jobs[number].id for number in queries] if search.excluding else []
        try:
            # Every k was checked when its request was accepted; items may have been deleted since.
            vectors = np.stack(list(queries.values()))
            found = index.search(vectors, search.k, label=search.label, exclude=exclude, fewer=True)
        except Exception as error:
            errors.update(dict.fromkeys(queries, error))
            return
        for number, matches in zip(queries, found, strict=True):
            answers[number][search] = matches


def _searches(job: SearchJob, comparison: Comparison | None) -> list[_IndexSearch]:
    """Return the searches that a job needs. A comparison needs deep rankings that are not filtered by label."""
    compared = comparison if job.compare_models else None
    searches = []
    for key in job.models:
        depth = compared.depth(key) if compared is not None and key in compared.indexes else 0
        k = job.k if job.label is not None else max(job.k, depth)
        searches.append(_IndexSearch(model=key, k=k, label=job.label, excluding=job.id is not None))
        if depth and job.label is not None:
            searches.append(_IndexSearch(model=key, k=depth, label=None, excluding=job.id is not None))
    return searches


def _result(
    job: SearchJob, answers: Mapping[_IndexSearch, Sequence[Match]], comparison: Comparison | None
) -> SearchResult:
    matches = {(search.model, search.label): found for search, found in answers.items()}
    disagreement = None
    if job.compare_models and comparison is not None:
        disagreement = comparison.disagreement({key: matches[key, None] for key in comparison.indexes})
    return SearchResult(
        matches={key: matches[key, job.label][: job.k] for key in job.models}, disagreement=disagreement
    )


def _query(job: SearchJob, key: str, index: SearchIndex) -> Vector:
    if job.vectors is not None:
        return job.vectors[key]
    assert job.id is not None
    return index.vector(job.id)
