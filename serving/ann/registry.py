"""Backends by kind. To add one, write one file and one line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hardrank.serving.ann.backend import Backend
from hardrank.serving.store.item_table import TableState
from hardrank.serving.store.manifest import BackendKind, IndexManifest

OpenBackend = Callable[[Path, IndexManifest, TableState, bool], Backend]
"""Called with the index's folder, its manifest, its committed state, and whether it is opened for writing."""


def open_backend(folder: Path, manifest: IndexManifest, state: TableState, writable: bool) -> Backend:
    """Open the backend that the manifest names; raises `BackendError`."""
    return _OPENERS[manifest.backend.kind](folder, manifest, state, writable)


def _faiss(folder: Path, manifest: IndexManifest, state: TableState, writable: bool) -> Backend:
    from hardrank.serving.ann.faiss_backend import FaissBackend
    from hardrank.serving.ann.gpu_backend import with_gpu

    return with_gpu(FaissBackend.load(folder, manifest.backend, state), manifest.backend)


def _milvus(folder: Path, manifest: IndexManifest, state: TableState, writable: bool) -> Backend:
    from hardrank.serving.ann.milvus_backend import MilvusBackend

    return MilvusBackend.open(folder, manifest, writable=writable)


_OPENERS: Final[Mapping[BackendKind, OpenBackend]] = {
    BackendKind.FAISS: _faiss,
    BackendKind.MILVUS: _milvus,
}
