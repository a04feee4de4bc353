"""The JSON of the API's responses: its schema for OpenAPI, and how it is made.

Responses are written without validation against these models, which costs time; tests compare them instead.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from hardrank.serving.api.problems import ProblemDetails
from hardrank.serving.search.models import ModelStats
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import SearchAnswer
from hardrank.serving.store.items import Item, Match, Scalar


class TimingsOut(BaseModel):
    """Milliseconds of each stage."""

    decode_ms: float = Field(ge=0, description="from the file's bytes to the network's input; 0 for a search by id")
    queue_ms: float = Field(ge=0, description="wait for a batch")
    embed_ms: float = Field(ge=0, description="the network, on the whole batch")
    search_ms: float = Field(ge=0, description="the index: wait and search")


class ItemOut(BaseModel):
    """An indexed image."""

    id: str = Field(examples=["camera~image_0003.jpg"])
    label: str | None
    metadata: dict[str, Scalar]
    width: int = Field(ge=0, description="pixels of the indexed image; 0: unknown")
    height: int = Field(ge=0, description="pixels of the indexed image; 0: unknown")


class MatchOut(ItemOut):
    """An item in the results."""

    rank: int = Field(ge=1, description="1 is the best")
    score: float = Field(description="cosine similarity to the query, −1 to 1")


class ModelAnswerOut(BaseModel):
    """Results of one model."""

    matches: list[MatchOut] = Field(description="best first; fewer than k if the index has fewer")
    timings: TimingsOut


class DisagreementOut(BaseModel):
    """How much the two models disagree about the query, compared with the gallery's own items. A hint, not a proof."""

    rbo: float = Field(ge=0, le=1, description="rank-biased overlap of the two rankings; 1: same order")
    percentile: float = Field(ge=0, le=100, description="share of the gallery's own items with at most this overlap")
    level: Literal["usual", "unusual", "suspicious"] = Field(
        description="unusual: percentile of at most 5; suspicious: of at most 1"
    )
    text: str = Field(description="a sentence for people")


class SearchOut(BaseModel):
    """Results of a search."""

    models: dict[str, ModelAnswerOut] = Field(description="by model key")
    suspicion: DisagreementOut | None = Field(
        description="null if only one model was searched, or while the usual agreement is unknown"
    )


class BatchAnswerOut(BaseModel):
    """Result of one query of a batch: either `answer` or `problem`."""

    answer: SearchOut | None
    problem: ProblemDetails | None


class BatchOut(BaseModel):
    """Results of a batch, in the order of the form's fields."""

    answers: list[BatchAnswerOut]


class PageOut(BaseModel):
    """Ids in order of addition."""

    ids: list[str]
    next: int | None = Field(description="`start` of the next page; null at the end, and with `after`")
    next_after: int | None = Field(
        description="`after` of the next page, which additions and deletions meanwhile do not shift; null at the end"
    )


class LabelsOut(BaseModel):
    """Labels of the gallery."""

    labels: dict[str, int] = Field(description="number of items by label")


class AddedOut(BaseModel):
    """The item, which is in the index now."""

    item: ItemOut
    new: bool = Field(description="false if the same item already existed")


class IndexOut(BaseModel):
    """Contents and size of an index."""

    size: int = Field(ge=0, description="number of items")
    dimension: int = Field(ge=1, description="length of a vector")
    backend: str
    parameters: dict[str, str | int | float] = Field(description="options of the backend")
    disk_bytes: int = Field(ge=0)
    vector_bytes: int = Field(ge=0, description="of the vectors, which are memory-mapped from their file")
    memory_bytes: int = Field(ge=0, description="of the backend and its tables in memory")
    deleted: int = Field(ge=0, description="deleted items whose vectors are still in the file")
    generation: int = Field(ge=0, description="number of changes so far")


class ModelOut(BaseModel):
    """A served model."""

    name: str = Field(description="the bundle's name")
    defense: str = Field(description="defense it was trained with, in the paper's notation")
    sha256: str = Field(description="of model.onnx")
    recall_at_1: float | None = Field(description="on benign images of unseen classes, from the model card")
    ers: float | None = Field(description="Empirical Robustness Score, 0 to 100, from the model card")
    device: str
    index: IndexOut


class LimitsOut(BaseModel):
    """Limits of a request."""

    body_bytes: int
    image_bytes: int
    image_pixels: int
    image_side: int
    results: int = Field(description="largest k")
    batch_queries: int
    page_items: int


class StatsOut(BaseModel):
    """Models, indexes and limits."""

    version: str
    models: dict[str, ModelOut] = Field(description="by model key")
    pending: int = Field(ge=0, description="images admitted but not answered yet")
    limits: LimitsOut


class HealthOut(BaseModel):
    """Whether the process is alive, or ready."""

    status: Literal["alive", "ready"]


def item_json(item: Item) -> dict[str, Any]:
    """Return an item as values for orjson."""
    return {
        "id": item.id,
        "label": item.label,
        "metadata": orjson.Fragment(item.metadata_json),
        "width": item.width,
        "height": item.height,
    }


def match_json(match: Match) -> dict[str, Any]:
    """Return a result as values for orjson. One dict, not a copy of that of `item_json`: an answer has thousands."""
    item, score, rank = match
    return {
        "id": item.id,
        "label": item.label,
        "metadata": orjson.Fragment(item.metadata_json),
        "width": item.width,
        "height": item.height,
        "rank": rank,
        "score": score,
    }


def server_timing(answer: SearchAnswer) -> dict[str, str]:
    """Return the Server-Timing header: milliseconds of each stage, summed over the networks."""
    timings = [own.timings for own in answer.by_model.values()]
    stages = {
        "decode": timings[0].decode_ms,
        "queue": timings[0].queue_ms,
        "embed": sum(own.embed_ms for own in timings),
        "search": timings[0].search_ms,
    }
    return {"Server-Timing": ", ".join(f"{name};dur={value:.2f}" for name, value in stages.items())}


def stats_json(models: Mapping[str, ModelStats], service: SearchService, version: str) -> dict[str, Any]:
    """Return models, indexes and limits as JSON values."""
    limits = service.settings.limits
    return {
        "version": version,
        "models": {key: asdict(stats) for key, stats in models.items()},
        "pending": service.admission.pending,
        "limits": {name: getattr(limits, name) for name in LimitsOut.model_fields},
    }
