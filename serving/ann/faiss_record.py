"""The record of a saved FAISS index: ann/NNNN.json describes ann/NNNN.faiss."""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.files import sha256, write_json
from hardrank.serving.store.errors import IndexDamagedError
from hardrank.serving.store.manifest import AnnKind

SCHEMA: Final = "hardrank.structure/1"


class FaissRecord(BaseModel):
    """A saved FAISS index, how it was chosen, and what was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: str = Field(default=SCHEMA, description="`hardrank.structure/1`")
    structure: AnnKind = Field(description="kind of the index")
    built_with: dict[str, int] = Field(description="parameters: lists, links, bytes of a code …")
    width: int = Field(description="inverted lists that a search probes (IVF), or candidates that it keeps (HNSW)")
    fetch: int = Field(description="number of candidates scored exactly, for ten results")
    recall_items: float = Field(description="measured recall@10 against exact search, for queries that are items")
    recall_between: float = Field(description="the same for queries between two items")
    p50_ms: float = Field(description="measured median time of one query on one thread, in milliseconds")
    items: int = Field(description="number of items when it was built and measured")
    seconds: float = Field(description="time to build and measure all candidates")
    measured: list[dict[str, Any]] = Field(description="all measurements that led to the choice")
    volume: int = Field(default=0, description="vector file whose slots are its ids")
    covered: int = Field(default=0, description="all live slots below this are in it")
    bytes: int = Field(default=0, description="size of its file")
    sha256: str = Field(default="", description="SHA-256 of its file")


def index_path(folder: Path, number: int) -> Path:
    """Return the file of a FAISS index in the folder of an index."""
    return folder / "ann" / f"{number:04}.faiss"


def remove_other_indexes(folder: Path, number: int) -> None:
    """Remove all FAISS indexes but one."""
    kept = index_path(folder, number).stem
    for path in (folder / "ann").glob("*"):
        if path.stem != kept:
            path.unlink(missing_ok=True)


def write_record(record: FaissRecord, path: Path) -> None:
    """Write the record of the FAISS index at `path`, with the size and hash of the file."""
    full = record.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256(path)})
    write_json(path.with_suffix(".json"), full.model_dump(mode="json"))


def read_record(path: Path) -> FaissRecord:
    """Read the record of the FAISS index at `path` and verify the file; raises `IndexDamagedError`."""
    try:
        record = FaissRecord.model_validate(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        intact = path.stat().st_size == record.bytes and sha256(path) == record.sha256
    except (OSError, ValueError, ValidationError) as error:
        raise IndexDamagedError(f"{path} or its record cannot be read: {error}") from error
    if not intact or record.schema_version != SCHEMA:
        raise IndexDamagedError(f"{path} does not match its record")
    return record
