"""Manifests of indexes that exist today stay readable; invalid ones are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from hardrank.serving.store.errors import IndexDamagedError, WrongModelError
from hardrank.serving.store.manifest import MANIFEST, AnnKind, BackendKind, BackendOptions, read_manifest
from tests.serving.conftest import make_manifest

STORED: dict[str, Any] = {
    "schema_version": "hardrank.index/1",
    "model": "demo-robust",
    "model_sha256": "0" * 64,
    "metric": "cosine",
    "backend": {
        "kind": "milvus",
        "structure": "ivf-pq",
        "flat_bytes": 33554432,
        "recall": 0.9,
        "tail": 4096,
        "uri": "http://localhost:19530",
        "collection": "hardrank",
        "token_variable": None,
    },
    "created": "2026-01-01T00:00:00Z",
    "command": "python serving/build.py --out x",
}
"""An index.json as the first release wrote it, except the entries that a card defines."""


def _write(folder: Path, content: object) -> Path:
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = make_manifest(backend=BackendOptions(structure=AnnKind.HNSW, tail=7))
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_a_stored_manifest_is_readable(tmp_path: Path) -> None:
    written = make_manifest().model_dump(mode="json")
    stored = {**STORED, "architecture": written["architecture"], "preprocessing": written["preprocessing"]}
    manifest = read_manifest(_write(tmp_path, stored))
    assert (manifest.model, manifest.dimension, manifest.backend.recall) == ("demo-robust", 16, 0.9)
    assert (manifest.backend.kind, manifest.backend.structure) == (BackendKind.MILVUS, AnnKind.IVF_PQ)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema_version": "hardrank.index/2"}, "hardrank.index/2"),
        ({"model_sha256": "xyz"}, "model_sha256"),
        ({"backend": {"structure": "tree"}}, "backend.structure"),
        ({"backend": {"uri": "x.db"}}, "Milvus"),
        ({"color": "red"}, "color"),
    ],
)
def test_an_invalid_manifest_is_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    content = make_manifest().model_dump(mode="json") | change
    with pytest.raises(IndexDamagedError, match=word):
        read_manifest(_write(tmp_path, content))


def test_another_model_is_refused(tmp_path: Path) -> None:
    make_manifest().check_model(tmp_path, "0" * 64)
    with pytest.raises(WrongModelError, match="other"):
        make_manifest().check_model(tmp_path, "1" * 64, "other")
