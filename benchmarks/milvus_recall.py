"""How much of what exact search finds does an index in Milvus find?

    python benchmarks/milvus_recall.py                             # a quarter of an hour
    python benchmarks/milvus_recall.py --structures hnsw ivf-sq8   # other kinds of index
    python benchmarks/milvus_recall.py --tiny                      # a try, in a minute

Vectors around random centers, in Milvus Lite. Queries are items, which are left out of their own results, and midpoints
of two items. Recall@k against exact search, where items as similar as the k-th count as found too: without a label, for
a label that is small enough to be compared exactly, and for a label that is not. The result is
benchmarks/results/milvus_recall.json.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from benchmarks.command import BenchmarkOptions, environment, parse_options
from hardrank.models.card import ArchitectureEntry, PreprocessingEntry
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import AnnKind, BackendKind, BackendOptions, IndexManifest

Vectors = npt.NDArray[np.float32]

_CENTERS: Final = 1000
_SPREAD: Final = 0.8
_TIE: Final = 1e-6
"""Similarities that differ by less are equal: a midpoint is as near to one of its items as to the other."""
_LARGE, _SMALL, _OTHER = "large", "small", "other"


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"items": 4000, "queries": 20, "flat_bytes": 2**20}

    items: int = 70_000
    """Items of the gallery: 45 % have one label, 5 % another. Milvus Lite compares the newest 128 MiB of vectors
    exactly, so its graph is only measured with more."""
    dimension: int = 512
    """D."""
    queries: int = 100
    """Queries of each of the two kinds."""
    results: tuple[int, ...] = (1, 5, 10, 50, 200)
    """Values of k."""
    structures: tuple[AnnKind, ...] = (AnnKind.AUTO,)
    """Kinds of index."""
    flat_bytes: int = BackendOptions().flat_bytes
    """Bytes of vectors up to which the items of a label are compared exactly."""
    seed: int = 0
    """Seed of vectors and queries."""


def gallery(options: Options) -> tuple[Vectors, list[str]]:
    """Return vectors (n,D) of norm 1 around centers, and their labels."""
    generator = np.random.default_rng(options.seed)
    centers = generator.normal(size=(_CENTERS, options.dimension))
    vectors = centers[generator.integers(0, _CENTERS, options.items)]
    vectors += _SPREAD * generator.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = generator.choice([_LARGE, _SMALL, _OTHER], size=options.items, p=[0.45, 0.05, 0.5])
    return vectors.astype(np.float32), labels.tolist()


def recalls(index: SearchIndex, vectors: Vectors, labels: list[str], options: Options) -> dict[str, Any]:
    """Return mean and least recall@k by kind of query, label and k, and the milliseconds of a query in a batch."""
    generator = np.random.default_rng([options.seed, 1])
    rows = generator.integers(0, len(vectors), (2, options.queries))
    middles = vectors[rows[0]] + vectors[rows[1]]
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    found: dict[str, Any] = {}
    for kind, queries in (("items", vectors[rows[0]]), ("midpoints", middles)):
        own = rows[0] if kind == "items" else np.full(options.queries, -1)
        for label in (None, _LARGE, _SMALL):
            among = np.arange(len(vectors)) if label is None else np.flatnonzero(np.array(labels) == label)
            similar = queries @ vectors[among].T
            similar[own[:, None] == among] = -np.inf
            for k in options.results:
                began = time.perf_counter()
                answers = index.search(
                    queries, k, label=label, exclude=[f"item-{row}" if row >= 0 else None for row in own]
                )
                took = time.perf_counter() - began
                least = -np.partition(-similar, k - 1, axis=1)[:, k - 1]
                shares = [
                    sum(match.score >= lowest - _TIE for match in answer) / k
                    for lowest, answer in zip(least, answers, strict=True)
                ]
                found[f"{kind}, {'all' if label is None else f'the {label} label'}, k={k}"] = {
                    "mean": round(float(np.mean(shares)), 4),
                    "least": round(float(min(shares)), 4),
                    "ms": round(1000 * took / len(queries), 1),
                }
    return found


def measure(structure: AnnKind, vectors: Vectors, labels: list[str], options: Options) -> dict[str, Any]:
    """Index the vectors in Milvus, and search."""
    backend = BackendOptions(kind=BackendKind.MILVUS, structure=structure, flat_bytes=options.flat_bytes)
    manifest = IndexManifest(
        model="random",
        model_sha256="0" * 64,
        architecture=ArchitectureEntry(backbone="resnet18", dimension=options.dimension, image_size=224),
        preprocessing=PreprocessingEntry(resize=256, crop=224),
        backend=backend,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        began = time.perf_counter()
        with SearchIndex.create(folder, manifest=manifest, maintenance=False) as index:
            for start in range(0, len(vectors), 10_000):
                part = enumerate(vectors[start : start + 10_000], start)
                index.add([NewItem(id=f"item-{row}", vector=vector, label=labels[row]) for row, vector in part])
        with SearchIndex.open(folder, maintenance=False) as index:
            seconds = time.perf_counter() - began
            found = recalls(index, vectors, labels, options)
    worst = min(found, key=lambda name: found[name]["mean"])
    return {
        "seconds_to_index": round(seconds, 1),
        "worst": {"what": worst, **found[worst]},
        "least_of_one_query": min(one["least"] for one in found.values()),
        "recall": found,
    }


def main() -> None:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    vectors, labels = gallery(options)
    result = {}
    for structure in options.structures:
        result[str(structure)] = measure(structure, vectors, labels, options)
        print(structure, result[str(structure)]["worst"], file=sys.stderr, flush=True)
    options.write(
        "milvus_recall",
        {
            "command": " ".join(["python benchmarks/milvus_recall.py", *sys.argv[1:]]),
            "items": options.items,
            "dimension": options.dimension,
            "items_by_label": {label: labels.count(label) for label in (_LARGE, _SMALL, _OTHER)},
            "queries_of_each_kind": options.queries,
            "seed": options.seed,
            "by_structure": result,
            "milvus": {name: version(name) for name in ("pymilvus", "milvus-lite")},
            **environment(),
        },
    )


if __name__ == "__main__":
    main()
