"""Backends by kind. A new one is one file, and one line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hardrank.serving.ann.backend import Backend
from hardrank.serving.store.index_options import BackendKind
from hardrank.serving.store.item_table import State
from hardrank.serving.store.manifest import IndexIdentity


def open_backend(folder: Path, identity: IndexIdentity, state: State, *, writable: bool) -> Backend:
    """Open the backend that an index was made for; raises `BackendError`."""
    return _OPENERS[identity.backend.kind](folder, identity, state, writable)


def _faiss(folder: Path, identity: IndexIdentity, state: State, writable: bool) -> Backend:
    from hardrank.serving.ann.faiss_backend import FaissBackend
    from hardrank.serving.ann.gpu_backend import on_gpu

    return on_gpu(FaissBackend.load(folder, identity.backend, state), identity.backend)


def _milvus(folder: Path, identity: IndexIdentity, state: State, writable: bool) -> Backend:
    from hardrank.serving.ann.milvus_backend import MilvusBackend

    return MilvusBackend.open(folder, identity, writable=writable)


_OPENERS: Final[Mapping[BackendKind, Callable[[Path, IndexIdentity, State, bool], Backend]]] = {
    BackendKind.FAISS: _faiss,
    BackendKind.MILVUS: _milvus,
}
