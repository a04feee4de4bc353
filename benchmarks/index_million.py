"""A million vectors: recall and latency of a search, memory, and changes while searches go on.

    python benchmarks/index_million.py
    python benchmarks/index_million.py --tiny    # a try, in a minute

Vectors are drawn as embeddings lie: classes in groups, items around their class, in directions whose variance falls as
those of trained networks do (see `Draw`). Queries are further draws of the same classes that no index holds, and points
between two items. Searches are those of a server: one query at a time on one thread, items looked up in the table.
Then 10 000 items are added and 10 000 deleted while two threads search without pause; a query fails when it raises,
finds fewer than ten, does not find the item it is the vector of, or finds an item that had been deleted before.

Needs some 4 GiB of disk and of memory, and about ten minutes on two cores. The result goes to
benchmarks/results/index_million.json.
"""

import os

# One thread for each search: set before NumPy reads it. FAISS builds with as many as it is told.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from benchmarks.command import BenchmarkOptions, environment, parse_options
from benchmarks.turns import apart
from hardrank.models.card import ArchitectureEntry, PreprocessingEntry
from hardrank.serving.ann.brute_force import nearest_in_range
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import AnnKind, BackendOptions, IndexManifest

K: Final = 10
CHUNK: Final = 10_000
CHANGED: Final = 10_000
AT_ONCE: Final = 100
"""Items in one addition or deletion while searches go on."""
SEARCHERS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"count": 5000, "dimension": 64, "queries": 20}

    count: int = 1_000_000
    """Vectors in the index."""
    dimension: int = 512
    """D of a vector."""
    queries: int = 500
    """Searches of each kind."""
    structure: AnnKind = AnnKind.AUTO
    """Which FAISS index."""
    folder: Path | None = None
    """Keep the index here; by default it is temporary."""


Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How vectors are drawn: group + class + item, each Gaussian with variances falling as i^(−decay), then ‖·‖ = 1."""

    dimension: int = 512
    items_a_class: int = 50
    classes_a_group: int = 20
    group: float = 0.6
    """Share of the variance that a group's classes have in common."""
    within: float = 0.6
    """Variance of items around their class, against that of the classes."""
    decay: float = 0.5
    seed: int = 0

    def vectors(self, count: int, *, total: int, part: int) -> Vectors:
        """Return (count,D) of norm 1: part `part` of a gallery of `total` items; every part is another."""
        spectrum = np.arange(1, self.dimension + 1, dtype=np.float32) ** (-self.decay / 2)
        classes = max(1, total // self.items_a_class)
        generator = np.random.default_rng([self.seed, 2, part])
        chosen = generator.integers(0, classes, count)
        centers = (
            np.sqrt(self.group)
            * self._centers(1, max(1, classes // self.classes_a_group))[
                chosen % max(1, classes // self.classes_a_group)
            ]
        )
        centers += np.sqrt(1 - self.group) * self._centers(0, classes)[chosen]
        noise = generator.standard_normal((count, self.dimension), dtype=np.float32)
        found = (centers + np.sqrt(self.within) * noise) * spectrum
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)

    def _centers(self, level: int, count: int) -> Vectors:
        generator = np.random.default_rng([self.seed, level])
        return generator.standard_normal((count, self.dimension), dtype=np.float32)


def memory() -> dict[str, float]:
    """Resident memory of this process, MiB: its own, and that of files it maps, which the system may take back."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: round(int(fields[key].split()[0]) / 1024, 1)
        for name, key in {"own_mib": "RssAnon", "mapped_mib": "RssFile"}.items()
    }


def most_memory() -> float:
    """The most that this process had resident at a time, MiB, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds."""
    return {f"p{q}_ms": round(1000 * float(np.percentile(seconds, q)), 3) for q in (50, 95, 99)}


def fill(index: SearchIndex, draw: Draw, count: int) -> float:
    """Add items 0 … count − 1; gives the seconds it took, drawing apart."""
    seconds = 0.0
    for start in range(0, count, CHUNK):
        vectors = draw.vectors(min(CHUNK, count - start), total=count, part=start // CHUNK)
        items = [NewItem(id=f"item-{start + n}", vector=vector) for n, vector in enumerate(vectors)]
        began = time.perf_counter()
        index.add(items)
        seconds += time.perf_counter() - began
    return seconds


def measure(index: SearchIndex, queries: Vectors) -> dict[str, float]:
    """Measure recall@10 against exact search, and the latency of single queries."""
    snapshot = index.snapshot
    near = nearest_in_range(queries, snapshot.vectors, K, start=0, alive=snapshot.alive)
    for query in queries[:20]:
        index.search(query[None], K)
    hits, seconds = 0, []
    for query, slots in zip(queries, near, strict=True):
        began = time.perf_counter()
        (matches,) = index.search(query[None], K)
        seconds.append(time.perf_counter() - began)
        slots = slots[slots >= 0]
        best = slots[np.argsort(-(snapshot.vectors[slots] @ query), kind="stable")[:K]]
        hits += len(set(snapshot.rows_of(best).tolist()) & {match.item.row for match in matches})
    return {"recall_at_10": round(hits / (K * len(queries)), 4), **percentiles(seconds)}


class Searcher(threading.Thread):
    """Searches without pause, and keeps what failed."""

    def __init__(self, index: SearchIndex, lasting: range, deleted: list[tuple[float, set[str]]], number: int) -> None:
        super().__init__(daemon=True)
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self.over = threading.Event()
        self._index = index
        self._lasting = lasting
        self._deleted = deleted
        self._generator = np.random.default_rng(number)

    def run(self) -> None:
        """Search for items that stay, by their own vectors."""
        while not self.over.is_set():
            id = f"item-{self._generator.integers(self._lasting.start, self._lasting.stop)}"
            try:
                query = self._index.vector(id)[None]
                began, wall = time.perf_counter(), time.monotonic()
                (matches,) = self._index.search(query, K)
                self.seconds.append(time.perf_counter() - began)
            except Exception as error:
                self.failures.append(repr(error))
                continue
            found = [match.item.id for match in matches]
            gone = [one for moment, ids in list(self._deleted) if moment < wall for one in ids.intersection(found)]
            if len(found) != K or found[0] != id or gone:
                self.failures.append(f"{id}: {found}, deleted before: {gone}")


def change(index: SearchIndex, draw: Draw, count: int) -> dict[str, Any]:
    """Add 10 000 items and delete 10 000 others while searches go on; see that all came and went."""
    deleted: list[tuple[float, set[str]]] = []
    changed = min(CHANGED, count // 4)
    searchers = [Searcher(index, range(changed, count), deleted, number) for number in range(SEARCHERS)]
    fresh = draw.vectors(changed, total=count, part=10**6)
    most = memory()["own_mib"]
    for searcher in searchers:
        searcher.start()
    began = time.perf_counter()
    for start in range(0, changed, AT_ONCE):
        part = range(start, min(start + AT_ONCE, changed))
        index.add([NewItem(id=f"new-{number}", vector=fresh[number]) for number in part])
        ids = [f"item-{number}" for number in part]
        index.delete(ids)
        deleted.append((time.monotonic(), set(ids)))
        most = max(most, memory()["own_mib"])
    seconds = time.perf_counter() - began
    index.optimize(threads=1)
    most = max(most, memory()["own_mib"])
    for searcher in searchers:
        searcher.over.set()
    for searcher in searchers:
        searcher.join()
    lost = [n for n in range(0, changed, 97) if index.search(fresh[n][None], 1)[0][0].item.id != f"new-{n}"]
    left = index.rows([f"item-{number}" for number in range(changed)])
    failures = [failure for searcher in searchers for failure in searcher.failures]
    return {
        "added": changed,
        "deleted": changed,
        "at_once": AT_ONCE,
        "seconds": round(seconds, 2),
        "searching_threads": SEARCHERS,
        "queries": sum(len(searcher.seconds) for searcher in searchers),
        "failed_queries": len(failures),
        "failures": failures[:5],
        "added_but_not_found": len(lost),
        "deleted_but_there": len(left),
        "latency": percentiles([one for searcher in searchers for one in searcher.seconds]),
        "most_own_mib": most,
    }


def between(index: SearchIndex, count: int, queries: int) -> Vectors:
    """Points between two items drawn at random."""
    vectors = index.snapshot.vectors
    one, other = np.random.default_rng(5).integers(0, count, (2, queries))
    sums = vectors[one] + vectors[other]
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), dtype=np.float32)


def build(folder: Path, options: Options) -> dict[str, float]:
    """Build the index, in a process whose memory is not counted; gives seconds."""
    draw = Draw(dimension=options.dimension)
    manifest = IndexManifest(
        model="drawn",
        model_sha256="0" * 64,
        architecture=ArchitectureEntry(backbone="none", dimension=draw.dimension, image_size=224),
        preprocessing=PreprocessingEntry(resize=256, crop=224),
        backend=BackendOptions(structure=options.structure),
    )
    with SearchIndex.create(folder, manifest=manifest, maintenance=False) as index:
        added = fill(index, draw, options.count)
        print(f"added in {added:.0f} s", flush=True)
        began = time.perf_counter()
        index.optimize(threads=os.cpu_count() or 1, progress=_shown())
        settled = time.perf_counter() - began
        print(f"settled in {settled:.0f} s: {index.stats()}", flush=True)
    return {"adding": round(added, 1), "structure": round(settled, 1), "most_resident_mib": most_memory()}


def serve(folder: Path, options: Options) -> dict[str, Any]:
    """Open the index in a fresh process, as a server does; search, and change while searching."""
    draw = Draw(dimension=options.dimension)
    before = memory()
    began = time.perf_counter()
    with SearchIndex.open(folder, writable=True) as index:
        opened, loaded = time.perf_counter() - began, memory()
        queries = draw.vectors(options.queries, total=options.count, part=10**7)
        stats = index.stats()
        result: dict[str, Any] = {
            "structure": {"name": stats.backend, **stats.parameters},
            "seconds_to_open": round(opened, 2),
            "unseen_queries": measure(index, queries),
            "queries_between_items": measure(index, between(index, options.count, options.queries)),
            "memory": {
                "before": before,
                "opened": loaded,
                "after_searches": memory(),
                "structure_mib": round(stats.memory_bytes / 2**20, 1),
                "vectors_file_mib": round(stats.vector_bytes / 2**20, 1),
            },
            "disk_mib": round(stats.disk_bytes / 2**20, 1),
        }
        print(result, flush=True)
        result["changes_while_searching"] = change(index, draw, options.count)
        result["after_changes"] = measure(index, queries)
    return result


def _shown() -> Callable[[str, int, int], None]:
    said: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        if time.monotonic() - said.get(stage, 0) > 20 or done == total:
            said[stage] = time.monotonic()
            print(f"{stage} {done}/{total}", flush=True)

    return show


def main() -> None:
    """Run and write the result."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "index"
        built = apart(build, folder, options)
        result = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "python " + " ".join(sys.argv),
            "vectors": {"count": options.count, **asdict(Draw(dimension=options.dimension)), "drawn": Draw.__doc__},
            "build_seconds_and_memory": built,
            **apart(serve, folder, options),
            **environment(),
        }
    options.write("index_million", result)


if __name__ == "__main__":
    main()
