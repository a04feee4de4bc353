"""Kinds of approximate FAISS indexes: how each is built and searched. To add one, write one class and one line below.

All have slots as ids and compare by inner product. They only find candidates; scores come from the vectors themselves.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import faiss

from hardrank.serving.store.manifest import AnnKind

_SEED: Final = 1234
_VECTORS_PER_CENTROID: Final = 48
"""Vectors from which each centroid is learned; FAISS warns below 39."""
_MIN_TRAINING: Final = 16_384
"""Minimum number of vectors from which codes are learned."""
_ID_BYTES: Final = 8
_LINKS: Final = 32
"""HNSW's M: neighbors of a node."""
_EF_CONSTRUCTION: Final = 100
"""HNSW's efConstruction: candidates kept while the graph is built."""
_KMEANS_ROUNDS: Final = 10
"""Iterations of k-means; more hardly change recall."""
MIN_ITEMS: Final = 1000
"""Number of items below which search is always exact: it is fast then, and product codes need 256 items."""


@dataclass(frozen=True, kw_only=True)
class SearchEffort:
    """How thoroughly a search looks. Each kind of index interprets `width` in its own way."""

    width: int
    """Inverted lists to search (IVF's nprobe), or candidates to keep (HNSW's efSearch)."""
    fetch: int
    """Number of candidates to score exactly, for ten results."""

    def scaled(self, count: int, share: float = 1.0) -> "SearchEffort":
        """Return the effort for `count` results instead of ten, among a share of the vectors."""
        more = max(1.0, count / 10)
        return SearchEffort(width=math.ceil(self.width * math.sqrt(more / share)), fetch=math.ceil(self.fetch * more))


class FaissKind(ABC):
    """One kind of approximate FAISS index."""

    removes: ClassVar[bool]
    """Whether vectors can be removed; if not, deleted ones stay until the index is rebuilt."""
    max_auto_items: ClassVar[int]
    """Number of items above which `auto` does not try it, because it takes too long to build."""
    widths: ClassVar[tuple[int, ...]]
    """Widths to try, ascending."""
    fetches: ClassVar[tuple[int, ...]]
    """Numbers of candidates to try, ascending."""

    @abstractmethod
    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        """Return an untrained FAISS index for about `size` vectors, with the centroids of `like` if both have some."""

    @abstractmethod
    def parameters(self, effort: SearchEffort, selector: Any) -> Any:
        """Return FAISS's search parameters; `selector`, unless None, restricts the slots."""

    @abstractmethod
    def training_size(self, index: Any) -> int:
        """Return the number of vectors to train it with."""

    @abstractmethod
    def describe(self, index: Any) -> dict[str, int]:
        """Return the parameters it was built with."""

    @abstractmethod
    def memory_bytes(self, index: Any) -> int:
        """Return its bytes in memory."""


class _HnswKind(FaissKind):
    removes = False
    max_auto_items = 60_000
    widths = (16, 32, 64, 128, 256)
    fetches = (16, 32, 64)

    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        graph = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EF_CONSTRUCTION
        return faiss.IndexIDMap(graph)

    def parameters(self, effort: SearchEffort, selector: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=max(effort.width, effort.fetch), sel=selector)

    def training_size(self, index: Any) -> int:
        return _MIN_TRAINING

    def describe(self, index: Any) -> dict[str, int]:
        return {"links": _LINKS}

    def memory_bytes(self, index: Any) -> int:
        graph = faiss.downcast_index(index.index)
        node = graph.storage.code_size if hasattr(graph.storage, "code_size") else graph.d
        return int(index.ntotal * (node + _ID_BYTES) + graph.hnsw.neighbors.size() * 4)


class _IvfKind(FaissKind):
    removes = True
    max_auto_items = 2**40
    widths = (1, 2, 4, 8, 16, 32, 64, 128)

    def parameters(self, effort: SearchEffort, selector: Any) -> Any:
        return faiss.SearchParametersIVF(nprobe=effort.width, sel=selector)

    def training_size(self, index: Any) -> int:
        return max(_MIN_TRAINING, _VECTORS_PER_CENTROID * int(index.nlist))

    def describe(self, index: Any) -> dict[str, int]:
        return {"lists": int(index.nlist)}

    def memory_bytes(self, index: Any) -> int:
        return int(index.ntotal * (index.code_size + _ID_BYTES) + 4 * index.d * index.nlist)

    @staticmethod
    def centroids(dimension: int, like: Any) -> Any:
        """Return the index of the centroids, copied from `like` if it has inverted lists, which saves learning them."""
        return (
            faiss.IndexFlatIP(dimension)
            if getattr(like, "quantizer", None) is None
            else faiss.clone_index(like.quantizer)
        )

    @staticmethod
    def list_count(size: int, centroids: Any) -> int:
        """Return the number of inverted lists: a power of two near 4 √N, with enough vectors for each centroid."""
        wanted = 2 ** round(math.log2(4 * math.sqrt(size)))
        return int(centroids.ntotal or max(1, min(wanted, size // _VECTORS_PER_CENTROID)))

    @staticmethod
    def with_training_options(index: Any) -> Any:
        """Set how the centroids are learned."""
        index.cp.niter = _KMEANS_ROUNDS
        index.cp.max_points_per_centroid = _VECTORS_PER_CENTROID
        index.cp.min_points_per_centroid = 1
        index.cp.spherical = True
        index.cp.seed = _SEED
        return index


class _IvfSq8Kind(_IvfKind):
    fetches = (16, 32, 64)

    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        centroids = self.centroids(dimension, like)
        bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(
            centroids, dimension, self.list_count(size, centroids), bits, faiss.METRIC_INNER_PRODUCT
        )
        return self.with_training_options(index)


class _IvfPqKind(_IvfKind):
    fetches = (64, 128, 256, 512)

    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        centroids = self.centroids(dimension, like)
        codes = max((n for n in range(1, dimension // 8 + 1) if not dimension % n), default=1)
        lists = self.list_count(size, centroids)
        index = faiss.IndexIVFPQ(centroids, dimension, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed = _SEED
        return self.with_training_options(index)

    def describe(self, index: Any) -> dict[str, int]:
        return {"lists": int(index.nlist), "bytes": int(index.pq.M)}


FAISS_KINDS: Final[Mapping[AnnKind, FaissKind]] = {
    AnnKind.HNSW: _HnswKind(),
    AnnKind.IVF_SQ8: _IvfSq8Kind(),
    AnnKind.IVF_PQ: _IvfPqKind(),
}
