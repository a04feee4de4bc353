"""FaissIndex structures of FAISS: how each is built and searched. A new one is one class and one line in the registry.

All hold slots as ids, compare by inner product, and name candidates only; scores come from the vectors themselves.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import faiss

from hardrank.serving.store.manifest import AnnKind

_SEED: Final = 1234
_POINTS_A_CENTRE: Final = 48
"""Vectors that each centre is learnt from; FAISS warns below 39."""
_POINTS_OF_CODES: Final = 16_384
"""Vectors that codes are learnt from, at least."""
_ID_BYTES: Final = 8
_LINKS: Final = 32
"""Neighbours of a node of HNSW."""
_CONSTRUCTION: Final = 100
"""Nodes kept in view while HNSW is built."""
_ROUNDS: Final = 10
"""Rounds of k-means; more change recall little."""
FEWEST: Final = 1000
"""Items below which no structure is built: product codes need 256 to learn from, and exact search is fast."""


@dataclass(frozen=True, kw_only=True)
class SearchEffort:
    """How hard a search tries. Each structure reads `width` its own way."""

    width: int
    """Inverted lists that are searched (IVF), or nodes that are kept in view (HNSW)."""
    fetch: int
    """Candidates whose exact scores are computed, for ten results."""

    def scaled(self, count: int, share: float = 1.0) -> "SearchEffort":
        """Give the effort for `count` results in place of ten, among a share of the vectors."""
        more = max(1.0, count / 10)
        return SearchEffort(width=math.ceil(self.width * math.sqrt(more / share)), fetch=math.ceil(self.fetch * more))


class FaissKind(ABC):
    """One kind of structure."""

    removes: ClassVar[bool]
    """Whether vectors can be taken out; where not, they stay as dead weight until it is built anew."""
    largest: ClassVar[int]
    """Vectors above which it takes too long to build to be tried unasked."""
    widths: ClassVar[tuple[int, ...]]
    """Widths to try, ascending."""
    fetches: ClassVar[tuple[int, ...]]
    """Numbers of candidates to try, ascending."""

    @abstractmethod
    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        """Give an untrained FAISS index for about `size` vectors, with the centres of `like` where both have such."""

    @abstractmethod
    def parameters(self, effort: SearchEffort, selector: Any) -> Any:
        """Give FAISS's search parameters; `selector` (or None) says which slots may be found."""

    @abstractmethod
    def training(self, index: Any) -> int:
        """Say how many vectors it should learn from."""

    @abstractmethod
    def describe(self, index: Any) -> dict[str, int]:
        """Name what it was built with."""

    @abstractmethod
    def memory_bytes(self, index: Any) -> int:
        """Give what it takes, vectors' file apart."""


class _Hnsw(FaissKind):
    removes = False
    largest = 60_000
    widths = (16, 32, 64, 128, 256)
    fetches = (16, 32, 64)

    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        graph = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _CONSTRUCTION
        return faiss.IndexIDMap(graph)

    def parameters(self, effort: SearchEffort, selector: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=max(effort.width, effort.fetch), sel=selector)

    def training(self, index: Any) -> int:
        return _POINTS_OF_CODES

    def describe(self, index: Any) -> dict[str, int]:
        return {"links": _LINKS}

    def memory_bytes(self, index: Any) -> int:
        graph = faiss.downcast_index(index.index)
        node = graph.storage.code_size if hasattr(graph.storage, "code_size") else graph.d
        return int(index.ntotal * (node + _ID_BYTES) + graph.hnsw.neighbors.size() * 4)


class _Ivf(FaissKind):
    removes = True
    largest = 2**40
    widths = (1, 2, 4, 8, 16, 32, 64, 128)

    def parameters(self, effort: SearchEffort, selector: Any) -> Any:
        return faiss.SearchParametersIVF(nprobe=effort.width, sel=selector)

    def training(self, index: Any) -> int:
        return max(_POINTS_OF_CODES, _POINTS_A_CENTRE * int(index.nlist))

    def describe(self, index: Any) -> dict[str, int]:
        return {"lists": int(index.nlist)}

    def memory_bytes(self, index: Any) -> int:
        return int(index.ntotal * (index.code_size + _ID_BYTES) + 4 * index.d * index.nlist)

    @staticmethod
    def centres(dimension: int, like: Any) -> Any:
        """Give the index of the centres: that of another one with inverted lists, which need not be learnt again."""
        return (
            faiss.IndexFlatIP(dimension)
            if getattr(like, "quantizer", None) is None
            else faiss.clone_index(like.quantizer)
        )

    @staticmethod
    def lists(size: int, centres: Any) -> int:
        """Number of inverted lists: a power of two near 4 √N, with enough vectors to learn each centre."""
        wanted = 2 ** round(math.log2(4 * math.sqrt(size)))
        return int(centres.ntotal or max(1, min(wanted, size // _POINTS_A_CENTRE)))

    @staticmethod
    def prepared(index: Any) -> Any:
        """Set how the centres are learnt."""
        index.cp.niter = _ROUNDS
        index.cp.max_points_per_centroid = _POINTS_A_CENTRE
        index.cp.min_points_per_centroid = 1
        index.cp.spherical = True
        index.cp.seed = _SEED
        return index


class _IvfSq8(_Ivf):
    fetches = (16, 32, 64)

    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        centres = self.centres(dimension, like)
        bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(
            centres, dimension, self.lists(size, centres), bits, faiss.METRIC_INNER_PRODUCT
        )
        return self.prepared(index)


class _IvfPq(_Ivf):
    fetches = (64, 128, 256, 512)

    def empty(self, dimension: int, size: int, *, like: Any = None) -> Any:
        centres = self.centres(dimension, like)
        codes = max((n for n in range(1, dimension // 8 + 1) if not dimension % n), default=1)
        lists = self.lists(size, centres)
        index = faiss.IndexIVFPQ(centres, dimension, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed = _SEED
        return self.prepared(index)

    def describe(self, index: Any) -> dict[str, int]:
        return {"lists": int(index.nlist), "bytes": int(index.pq.M)}


FAISS_KINDS: Final[Mapping[AnnKind, FaissKind]] = {
    AnnKind.HNSW: _Hnsw(),
    AnnKind.IVF_SQ8: _IvfSq8(),
    AnnKind.IVF_PQ: _IvfPq(),
}
