"""The shapes of the API's answers, as OpenAPI tells them."""

from typing import Literal

from pydantic import BaseModel, Field

from hardrank.serving.api.problems import Problem

Scalar = str | int | float | bool | None


class TimingsOut(BaseModel):
    """Milliseconds of each stage."""

    decode_ms: float = Field(ge=0, description="the file's bytes to the network's input; 0 for a search by id")
    queue_ms: float = Field(ge=0, description="waiting for a batch")
    embed_ms: float = Field(ge=0, description="the network, on the whole batch")
    search_ms: float = Field(ge=0, description="the index: waiting for it and searching it")


class ItemOut(BaseModel):
    """An indexed image."""

    id: str = Field(examples=["camera~image_0003.jpg"])
    label: str | None
    metadata: dict[str, Scalar]
    width: int = Field(ge=0, description="pixels of the original; 0: unknown")
    height: int = Field(ge=0, description="pixels of the original; 0: unknown")


class MatchOut(ItemOut):
    """An item that was found."""

    rank: int = Field(ge=1, description="1 for the best")
    score: float = Field(description="cosine similarity to the query, −1 to 1")


class ModelAnswerOut(BaseModel):
    """What one model finds."""

    matches: list[MatchOut] = Field(description="the best first; fewer than k where there are not so many")
    timings: TimingsOut


class SuspicionOut(BaseModel):
    """How much the two models disagree about an image, against what is usual in this gallery. A hint, not a proof."""

    rbo: float = Field(ge=0, le=1, description="rank-biased overlap of the two rankings")
    percentile: float = Field(ge=0, le=100, description="of images like the gallery's, this share disagrees as much")
    level: Literal["usual", "unusual", "suspicious"]
    text: str


class SearchOut(BaseModel):
    """The answer to a search."""

    models: dict[str, ModelAnswerOut] = Field(description="by the model's key")
    suspicion: SuspicionOut | None = Field(
        description="null where one model was asked, or what is usual is not known (yet)"
    )


class BatchAnswerOut(BaseModel):
    """The answer to one query of a batch: `answer`, or `problem` where the query was at fault."""

    answer: SearchOut | None
    problem: Problem | None


class BatchOut(BaseModel):
    """The answers to a batch, in the order of its fields."""

    answers: list[BatchAnswerOut]


class PageOut(BaseModel):
    """Ids in the order of addition."""

    ids: list[str]
    next: int | None = Field(description="where the next page starts; null at the end")


class LabelsOut(BaseModel):
    """The labels of the gallery."""

    labels: dict[str, int] = Field(description="items of each label")


class AddedOut(BaseModel):
    """An item that is in the index now."""

    item: ItemOut
    new: bool = Field(description="false where exactly this was there already")


class IndexOut(BaseModel):
    """What an index holds and takes."""

    size: int = Field(ge=0, description="items")
    dimension: int = Field(ge=1, description="coordinates of a vector")
    backend: str
    parameters: dict[str, str | int | float] = Field(description="of the backend")
    disk_bytes: int = Field(ge=0)
    vector_bytes: int = Field(ge=0, description="of the vectors, which are mapped from their file")
    memory_bytes: int = Field(ge=0, description="of the backend and its tables in memory")
    deleted: int = Field(ge=0, description="deleted items whose vectors still lie in the file")
    generation: int = Field(ge=0, description="changes so far")


class ModelOut(BaseModel):
    """A model that is served."""

    name: str = Field(description="the bundle's name")
    defense: str = Field(description="how it was trained, in the paper's notation")
    sha256: str = Field(description="of model.onnx")
    recall_at_1: float | None = Field(description="on benign images of unseen classes, as measured at training")
    ers: float | None = Field(description="Empirical Robustness Score, 0 to 100, as measured at training")
    device: str
    index: IndexOut


class LimitsOut(BaseModel):
    """What a request may be."""

    body_bytes: int
    image_bytes: int
    image_pixels: int
    image_side: int
    results: int = Field(description="largest k")
    batch_queries: int
    page_items: int


class StatsOut(BaseModel):
    """What is served."""

    version: str
    models: dict[str, ModelOut] = Field(description="by the model's key")
    pending: int = Field(ge=0, description="images admitted and not answered yet")
    limits: LimitsOut


class HealthOut(BaseModel):
    """Whether the process lives, or is ready."""

    status: Literal["alive", "ready"]
