"""What is known of a saved structure, beside its file: ann/NNNN.faiss and ann/NNNN.json."""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.files import sha256, write_json
from hardrank.serving.store.errors import IndexDamagedError
from hardrank.serving.store.manifest import AnnKind

SCHEMA: Final = "hardrank.structure/1"


class FaissRecord(BaseModel):
    """A structure and how it was chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: str = Field(default=SCHEMA, description="`hardrank.structure/1`")
    structure: AnnKind
    built_with: dict[str, int] = Field(description="lists, links, bytes of a code …")
    width: int = Field(
        description="inverted lists that a search looks into (IVF), or nodes that it keeps in view (HNSW)"
    )
    fetch: int = Field(description="candidates that are scored exactly, for ten results")
    recall_items: float = Field(description="recall@10 against exact search of queries that are items, as measured")
    recall_between: float = Field(description="the same of queries that lie between two items")
    p50_ms: float = Field(description="median time of one query on one thread, milliseconds, as measured")
    items: int = Field(description="items that it was built and measured with")
    seconds: float = Field(description="time to build and measure everything")
    measured: list[dict[str, Any]] = Field(description="everything that was measured to choose it")
    volume: int = Field(default=0, description="volume of vectors that its ids are slots of")
    covered: int = Field(default=0, description="slots below this are in it")
    bytes: int = Field(default=0, description="size of its file")
    sha256: str = Field(default="", description="SHA-256 of its file")


def structure_path(folder: Path, number: int) -> Path:
    """Give the file of a structure in an index's folder."""
    return folder / "ann" / f"{number:04}.faiss"


def remove_other_structures(folder: Path, number: int) -> None:
    """Remove the structures that are not in force."""
    kept = structure_path(folder, number).stem
    for path in (folder / "ann").glob("*"):
        if path.stem != kept:
            path.unlink(missing_ok=True)


def write_record(record: FaissRecord, path: Path) -> None:
    """Write the record of the structure at `path`, with its size and hash."""
    full = record.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256(path)})
    write_json(path.with_suffix(".json"), full.model_dump(mode="json"))


def read_record(path: Path) -> FaissRecord:
    """Read the record of the structure at `path` and compare the file with it; raises `IndexDamagedError`."""
    try:
        record = FaissRecord.model_validate(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        intact = path.stat().st_size == record.bytes and sha256(path) == record.sha256
    except (OSError, ValueError, ValidationError) as error:
        raise IndexDamagedError(f"{path} or its record cannot be read: {error}") from error
    if not intact or record.schema_version != SCHEMA:
        raise IndexDamagedError(f"{path} is not the file that its record describes")
    return record
