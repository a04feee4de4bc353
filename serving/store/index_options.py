"""How an index searches: the backend, its structure and what it should reach."""

from enum import StrEnum
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_COLLECTION: Final = "hardrank"


class BackendKind(StrEnum):
    """Where vectors are searched."""

    FAISS = "faiss"
    """In this process."""
    MILVUS = "milvus"
    """In a Milvus Lite file or a Milvus cluster."""


class Structure(StrEnum):
    """How FAISS finds candidates."""

    AUTO = "auto"
    """Flat as long as that is fast, then whichever of the others measures best."""
    FLAT = "flat"
    """Compare every vector: exact, no structure to build."""
    HNSW = "hnsw"
    """A graph of neighbours over 8-bit codes: the fastest search, the slowest to build."""
    IVF_SQ8 = "ivf-sq8"
    """Inverted lists of 8-bit codes, D bytes a vector."""
    IVF_PQ = "ivf-pq"
    """Inverted lists of product codes, D/8 bytes a vector: the smallest."""


class BackendOptions(BaseModel):
    """Options of an index, as index.json keeps them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: BackendKind = BackendKind.FAISS
    structure: Structure = Structure.AUTO
    flat_bytes: int = Field(default=32 * 2**20, ge=0, description="auto: vectors up to this size are searched exactly")
    recall: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="recall@10 against exact search that a structure should reach",
    )
    tail: int = Field(
        default=4096, ge=1, description="items added since the structure was built that are searched exactly; more are "
        "folded into it"
    )  # fmt: skip
    uri: str | None = Field(default=None, description="Milvus: a local file for Milvus Lite, or http://HOST:19530")
    collection: str = Field(default=DEFAULT_COLLECTION, description="Milvus: what the collection's name begins with")
    token_variable: str | None = Field(
        default=None, description="Milvus: the environment variable that holds user:password or an API key"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind is BackendKind.FAISS and (self.uri or self.token_variable):
            raise ValueError("uri and token_variable are options of Milvus; choose that backend or leave them out")
        return self
