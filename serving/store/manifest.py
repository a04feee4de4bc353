"""index.json: which model an index was made with, and how it searches. Written once."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.bundle import ArchitectureEntry, PreprocessingEntry
from hardrank.models.files import write_json
from hardrank.serving.store.errors import IndexDamagedError, IndexNotFoundError, WrongModelError
from hardrank.serving.store.index_options import BackendOptions

if TYPE_CHECKING:
    from hardrank.serving.engine import Engine

SCHEMA: Final = "hardrank.index/1"
MANIFEST: Final = "index.json"


class IndexIdentity(BaseModel):
    """What an index is, apart from what it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: str = Field(default=SCHEMA, description="`hardrank.index/1`")
    model: str = Field(description="name of the bundle whose embeddings are indexed")
    model_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of its model.onnx")
    architecture: ArchitectureEntry
    preprocessing: PreprocessingEntry
    metric: str = Field(default="cosine", pattern="^cosine$", description="similarity of embeddings: cosine")
    backend: BackendOptions = Field(default_factory=BackendOptions)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC), description="when, UTC")
    command: str = Field(default="", description="what was typed")

    @classmethod
    def of(cls, engine: "Engine", *, backend: BackendOptions | None = None, command: str = "") -> Self:
        """Describe an index of the engine's model."""
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
        """D, coordinates of a vector."""
        return self.architecture.dimension

    def check_model(self, folder: Path, model_sha256: str, name: str | None = None) -> None:
        """Raise `WrongModelError` unless the index was made with this model."""
        if model_sha256 != self.model_sha256:
            other = f"{name} ({model_sha256[:12]}…)" if name else f"the one with SHA-256 {model_sha256[:12]}…"
            raise WrongModelError(
                f"the index {folder} was made with the model {self.model} (SHA-256 {self.model_sha256[:12]}…), not "
                f"{other}: their vectors cannot be compared; build one with: "
                f"python serving/build.py --model {name or 'BUNDLE'} --images … --out INDEX"
            )

    def write(self, folder: Path) -> None:
        """Write index.json."""
        write_json(folder / MANIFEST, self.model_dump(mode="json"))


def read_identity(folder: Path) -> IndexIdentity:
    """Read index.json; raises `IndexNotFoundError` where there is none, `IndexDamagedError` where it is damaged."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexNotFoundError(
            f"{folder} is no index: it has no {MANIFEST}; build one with: "
            f"python serving/build.py --model BUNDLE --images DIR --out {folder}"
        ) from error
    except (OSError, ValueError) as error:
        raise IndexDamagedError(f"{path} is damaged: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise IndexDamagedError(f"{path} has the schema {version!r}; this version reads {SCHEMA}")
    try:
        return IndexIdentity.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise IndexDamagedError(f"{path} does not fit its schema: {where}: {first['msg']}") from error
