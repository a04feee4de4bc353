"""An approximate structure over the slots below a mark. Nothing of it changes once it is made."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import faiss
import numpy as np
import numpy.typing as npt

from hardrank.models.files import atomic_path
from hardrank.serving.ann.backend import Slots, Vectors
from hardrank.serving.ann.faiss_kinds import FAISS_KINDS, SearchEffort
from hardrank.serving.store.manifest import AnnKind

_BLOCK: Final = 16_384
_SEED: Final = 1234

Bits = npt.NDArray[np.uint8]
"""A bit for each slot, the lowest first."""
Advance = Callable[[int, int], None]
"""Called with vectors added and in all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaissIndex:
    """A FAISS index whose ids are slots."""

    structure: AnnKind
    index: Any
    """Of FAISS; only ever searched."""
    covered: int
    """Slots below this are in it, unless they were dead when it was made."""
    effort: SearchEffort

    @property
    def size(self) -> int:
        """Vectors in it."""
        return int(self.index.ntotal)

    @property
    def memory_bytes(self) -> int:
        """What it takes, the vectors' file apart."""
        return FAISS_KINDS[self.structure].memory_bytes(self.index)

    def search(self, queries: Vectors, count: int, *, allowed: Bits | None = None, share: float = 1.0) -> Slots:
        """Give candidate slots (Q,C), −1 where there are fewer; with `allowed`, only those whose bit is set.

        `share` says which part of the vectors that is, 0 to 1: the fewer, the farther one has to look.
        """
        # One query at a time is fastest on the thread that asks: waking others costs more than they save.
        faiss.omp_set_num_threads(1)
        effort = self.effort.scaled(count, share)
        selector = None if allowed is None else faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(allowed))
        parameters = FAISS_KINDS[self.structure].parameters(effort, selector)
        # faiss.contrib.torch_utils, which other libraries import, puts a search without `params` in its place.
        search = getattr(self.index, "search_numpy", self.index.search)
        _, slots = search(queries, max(1, min(effort.fetch, self.size)), params=parameters)
        return np.asarray(slots, dtype=np.int64)

    def folded(self, vectors: Vectors, alive: npt.NDArray[np.bool_], *, threads: int) -> Self:
        """Give a copy that covers all of `vectors` (S,D), without what has died where that can be taken out."""
        with _threads(threads):
            index = faiss.clone_index(self.index)
            if FAISS_KINDS[self.structure].removes:
                index.remove_ids(np.flatnonzero(~alive[: self.covered]))
            _add(index, vectors, np.flatnonzero(alive[self.covered :]) + self.covered)
        return replace(self, index=index, covered=len(alive))

    def save(self, path: Path) -> None:
        """Write the FAISS index, whole or not at all."""
        with atomic_path(path) as unfinished:
            faiss.write_index(self.index, str(unfinished))


def build(
    structure: AnnKind,
    vectors: Vectors,
    slots: Slots,
    *,
    covered: int,
    threads: int,
    like: FaissIndex | None = None,
    advance: Advance | None = None,
) -> FaissIndex:
    """Build a structure over `slots` (n,) of `vectors` (S,D), with the centres of another; its effort is the least."""
    kind = FAISS_KINDS[structure]
    with _threads(threads):
        index = kind.empty(vectors.shape[1], len(slots), like=None if like is None else like.index)
        index.train(_sample(vectors, slots, kind.training(index)))
        _add(index, vectors, slots, advance)
    effort = SearchEffort(width=kind.widths[0], fetch=kind.fetches[0])
    return FaissIndex(structure=structure, index=index, covered=covered, effort=effort)


def _add(index: Any, vectors: Vectors, slots: Slots, advance: Advance | None = None) -> None:
    for start in range(0, len(slots), _BLOCK):
        part = slots[start : start + _BLOCK]
        index.add_with_ids(np.ascontiguousarray(vectors[part]), part)
        if advance is not None:
            advance(start + len(part), len(slots))


def _sample(vectors: Vectors, slots: Slots, count: int) -> Vectors:
    if count < len(slots):
        chosen = np.random.default_rng(_SEED).choice(len(slots), count, replace=False)
        slots = slots[np.sort(chosen)]
    return np.ascontiguousarray(vectors[slots])


def load(structure: AnnKind, path: Path, *, covered: int, effort: SearchEffort) -> FaissIndex:
    """Read what `save` wrote; raises `RuntimeError` where that is no FAISS index."""
    return FaissIndex(structure=structure, index=faiss.read_index(str(path)), covered=covered, effort=effort)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let FAISS use `count` threads for what this thread asks of it (0: one for each core)."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
