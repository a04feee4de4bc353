"""Backends by kind. A new one is one file, and one line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from serving.identity import IndexIdentity
from serving.index.backend import Backend
from serving.index.options import BackendKind
from serving.item_table import State


def open_backend(folder: Path, identity: IndexIdentity, state: State, *, writable: bool) -> Backend:
    """Open the backend that an index was made for; raises `BackendError`."""
    return _OPENERS[identity.backend.kind](folder, identity, state, writable)


def _faiss(folder: Path, identity: IndexIdentity, state: State, writable: bool) -> Backend:
    from serving.index.faiss_backend import FaissBackend
    from serving.index.gpu_backend import on_gpu

    return on_gpu(FaissBackend.load(folder, identity.backend, state), identity.backend)


def _milvus(folder: Path, identity: IndexIdentity, state: State, writable: bool) -> Backend:
    from serving.index.milvus_backend import MilvusBackend

    return MilvusBackend.open(folder, identity, writable=writable)


_OPENERS: Final[Mapping[BackendKind, Callable[[Path, IndexIdentity, State, bool], Backend]]] = {
    BackendKind.FAISS: _faiss,
    BackendKind.MILVUS: _milvus,
}
