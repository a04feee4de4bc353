"""An approximate FAISS index over the slots below a mark. It never changes once it is built."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import faiss
import numpy as np
import numpy.typing as npt

from hardrank.models.cores import usable_cores
from hardrank.models.files import atomic_path
from hardrank.serving.ann.backend import Slots, Vectors
from hardrank.serving.ann.faiss_kinds import FAISS_KINDS, SearchEffort
from hardrank.serving.store.errors import IndexWriteError
from hardrank.serving.store.manifest import AnnKind

_BLOCK: Final = 16_384
_SEED: Final = 1234

BitMask = npt.NDArray[np.uint8]
"""A bit for each slot, lowest bit first."""
Progress = Callable[[int, int], None]
"""Called with the number of vectors added, and of all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaissIndex:
    """An approximate FAISS index whose ids are slots."""

    kind: AnnKind
    index: Any
    """Of FAISS; only ever searched."""
    covered: int
    """All slots below this are in it, unless they were deleted when it was built."""
    effort: SearchEffort

    @property
    def size(self) -> int:
        """Number of vectors in it."""
        return int(self.index.ntotal)

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory, without the mapped vectors."""
        return FAISS_KINDS[self.kind].memory_bytes(self.index)

    def search(self, queries: Vectors, count: int, *, allowed: BitMask | None = None, share: float = 1.0) -> Slots:
        """Return candidate slots (Q,C), −1 where there are fewer; with `allowed`, only those whose bit is set.

        `share` is the fraction of vectors that are allowed, in (0,1]: the smaller, the wider the search.
        """
        # Queries come one at a time, and are fastest on the calling thread: waking others takes longer than they save.
        faiss.omp_set_num_threads(1)
        effort = self.effort.scaled(count, share)
        selector = None if allowed is None else faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(allowed))
        parameters = FAISS_KINDS[self.kind].parameters(effort, selector)
        # faiss.contrib.torch_utils, which other libraries import, replaces `search` by one without `params`.
        search = getattr(self.index, "search_numpy", self.index.search)
        _, slots = search(queries, max(1, min(effort.fetch, self.size)), params=parameters)
        return np.asarray(slots, dtype=np.int64)

    def extended(self, vectors: Vectors, alive: npt.NDArray[np.bool_], *, threads: int) -> Self:
        """Return a copy that covers all of `vectors` (S,D), without deleted ones if this kind can remove them."""
        with _threads(threads):
            index = faiss.clone_index(self.index)
            if FAISS_KINDS[self.kind].removes:
                index.remove_ids(np.flatnonzero(~alive[: self.covered]))
            _add(index, vectors, np.flatnonzero(alive[self.covered :]) + self.covered)
        return replace(self, index=index, covered=len(alive))

    def save(self, path: Path) -> None:
        """Write the FAISS index, whole or not at all; raises `IndexWriteError`."""
        try:
            with atomic_path(path) as unfinished:
                faiss.write_index(self.index, str(unfinished))
        except (OSError, RuntimeError) as error:  # FAISS raises the latter
            raise IndexWriteError(
                f"{path} cannot be written ({error}); check the disk space and permissions"
            ) from error


def build(
    kind: AnnKind,
    vectors: Vectors,
    slots: Slots,
    *,
    covered: int,
    threads: int,
    like: FaissIndex | None = None,
    progress: Progress | None = None,
) -> FaissIndex:
    """Build an index over `slots` (n,) of `vectors` (S,D), with the least effort.

    `like` is an index over the same vectors, whose centroids are reused; `threads` 0: one per usable core.
    """
    faiss_kind = FAISS_KINDS[kind]
    with _threads(threads):
        index = faiss_kind.empty(vectors.shape[1], len(slots), like=None if like is None else like.index)
        index.train(_sample(vectors, slots, faiss_kind.training_size(index)))
        _add(index, vectors, slots, progress)
    effort = SearchEffort(width=faiss_kind.widths[0], fetch=faiss_kind.fetches[0])
    return FaissIndex(kind=kind, index=index, covered=covered, effort=effort)


def load(kind: AnnKind, path: Path, *, covered: int, effort: SearchEffort) -> FaissIndex:
    """Read what `FaissIndex.save` wrote; raises `RuntimeError` if it is not a FAISS index."""
    return FaissIndex(kind=kind, index=faiss.read_index(str(path)), covered=covered, effort=effort)


def _add(index: Any, vectors: Vectors, slots: Slots, progress: Progress | None = None) -> None:
    for start in range(0, len(slots), _BLOCK):
        part = slots[start : start + _BLOCK]
        index.add_with_ids(np.ascontiguousarray(vectors[part]), part)
        if progress is not None:
            progress(start + len(part), len(slots))


def _sample(vectors: Vectors, slots: Slots, count: int) -> Vectors:
    if count < len(slots):
        chosen = np.random.default_rng(_SEED).choice(len(slots), count, replace=False)
        slots = slots[np.sort(chosen)]
    return np.ascontiguousarray(vectors[slots])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let FAISS use `count` threads for calls from this thread (0: one per usable core)."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or usable_cores())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
