"""index.json: which model an index belongs to, and how it is searched. Written once, when the index is created."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardrank.models.card import ArchitectureEntry, PreprocessingEntry
from hardrank.models.files import write_json
from hardrank.models.home import typed
from hardrank.serving.store.errors import IndexDamagedError, IndexNotFoundError, WrongModelError

if TYPE_CHECKING:
    from hardrank.serving.engine import Engine

SCHEMA: Final = "hardrank.index/1"
MANIFEST: Final = "index.json"
DEFAULT_COLLECTION: Final = "hardrank"


class BackendKind(StrEnum):
    """Where vectors are searched."""

    FAISS = "faiss"
    """In this process."""
    MILVUS = "milvus"
    """In a Milvus Lite file or a Milvus cluster."""


class AnnKind(StrEnum):
    """How candidates are found."""

    AUTO = "auto"
    """Flat while that is fast, then the kind that measures best on the gallery."""
    FLAT = "flat"
    """Compare every vector: exact, with nothing to build."""
    HNSW = "hnsw"
    """A graph of neighbors over 8-bit codes: the fastest search, and the slowest to build."""
    IVF_SQ8 = "ivf-sq8"
    """Inverted lists of 8-bit codes, D bytes per vector."""
    IVF_PQ = "ivf-pq"
    """Inverted lists of product codes, D/8 bytes per vector: the smallest."""


class BackendOptions(BaseModel):
    """How an index is searched, as stored in index.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: BackendKind = Field(default=BackendKind.FAISS, description="where vectors are searched")
    structure: AnnKind = Field(default=AnnKind.AUTO, description="how candidates are found")
    flat_bytes: int = Field(
        default=32 * 2**20, ge=0, description="auto: total size of vectors up to which search is exact"
    )
    recall: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="recall@10 against exact search that an ANN index should reach",
    )
    tail: int = Field(
        default=4096,
        ge=1,
        description="number of items added since the ANN index was built that are searched exactly; beyond, they are "
        "merged into it",
    )
    uri: str | None = Field(default=None, description="Milvus: a local file for Milvus Lite, or http://HOST:19530")
    collection: str = Field(default=DEFAULT_COLLECTION, description="Milvus: prefix of the collection's name")
    token_variable: str | None = Field(
        default=None, description="Milvus: environment variable that holds user:password or an API key"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind is BackendKind.FAISS and (self.uri or self.token_variable):
            raise ValueError("uri and token_variable are options of Milvus; choose that backend or leave them out")
        return self


class IndexManifest(BaseModel):
    """The model and options of an index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: str = Field(default=SCHEMA, description="`hardrank.index/1`")
    model: str = Field(description="name of the bundle whose embeddings are indexed")
    model_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of its model.onnx")
    architecture: ArchitectureEntry
    preprocessing: PreprocessingEntry
    metric: str = Field(default="cosine", pattern="^cosine$", description="similarity of embeddings: cosine")
    backend: BackendOptions = Field(default_factory=BackendOptions)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC), description="time of creation, UTC")
    command: str = Field(default="", description="command line that created the index")

    @classmethod
    def of(cls, engine: "Engine", *, backend: BackendOptions | None = None, command: str = "") -> Self:
        """Return the manifest of a new index of an engine's model.

        Args:
            engine: The model.
            backend: How the index is searched; None for FAISS with its defaults.
            command: The command line, for the record.
        """
        card = engine.card
        return cls(
            model=card.name,
            model_sha256=engine.model_sha256,
            architecture=card.architecture,
            preprocessing=card.preprocessing,
            backend=backend or BackendOptions(),
            command=command,
        )

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.architecture.dimension

    def check_model(self, folder: Path, model_sha256: str, name: str | None = None) -> None:
        """Raise `WrongModelError` unless the index in `folder` belongs to this model."""
        if model_sha256 != self.model_sha256:
            other = f"{name} ({model_sha256[:12]}…)" if name else f"the one with SHA-256 {model_sha256[:12]}…"
            raise WrongModelError(
                f"the index {folder} belongs to the model {self.model} (SHA-256 {self.model_sha256[:12]}…), not to "
                f"{other}, and their vectors cannot be compared; build another index with: "
                f"{typed('index')} --model {name or 'BUNDLE'} --images … --out INDEX"
            )

    def write(self, folder: Path) -> None:
        """Write index.json."""
        write_json(folder / MANIFEST, self.model_dump(mode="json"))


def read_manifest(folder: Path) -> IndexManifest:
    """Read index.json; raises `IndexNotFoundError` if it does not exist, `IndexDamagedError` if it is invalid."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexNotFoundError(
            f"{folder} is not an index: it has no {MANIFEST}; build one with: "
            f"{typed('index')} --model BUNDLE --images DIR --out {folder}"
        ) from error
    except (OSError, ValueError) as error:
        raise IndexDamagedError(f"{path} is damaged: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise IndexDamagedError(f"{path} has the schema {version!r}; this release reads {SCHEMA}")
    try:
        return IndexManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise IndexDamagedError(f"{path} is invalid: {where}: {first['msg']}") from error
