"""Whether the memory of a server grows with the visitors of its search page.

    python benchmarks/sessions.py                            # 10 000 visitors, a quarter of an hour on a free core
    python benchmarks/sessions.py --visitors 100 1000        # fewer
    python benchmarks/sessions.py --tiny                     # a try, in a minute

Visitors open the page, each as a session of its own, and search with an item of the gallery for as many results of two
models as the page allows. One in 20 leaves without taking the answer. Measures the resident memory after 100, 1 000 and
10 000 visitors; then how many answers the server keeps for visitors of one address and of many that take none, and how
many of those it still has after half a minute. The result is benchmarks/results/sessions.json.
"""

import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from PIL import Image

from benchmarks.command import BenchmarkOptions, environment, parse_options
from benchmarks.serving_processes import Server, send, served
from benchmarks.serving_scene import DIMENSION, Scene, photograph, write_bundle
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest
from hardrank.serving.store.thumbnails import make_thumbnail

_RESULTS: Final = 48
"""Results per model, the most that the page shows."""
_SEARCH: Final = ("", _RESULTS, "", False)
"""What the page sends with the id of an item: key, results, label, fold copies."""
_LIMIT: Final = 1.2
"""Of the memory after the last step, relative to that after the first."""
_ABANDON: Final = 20
"""One visitor in so many leaves without reading the answer."""
_UNREAD_S: Final = 35.0
"""Seconds after which unread answers are gone."""


@dataclass(frozen=True, kw_only=True)
class SessionOptions(BenchmarkOptions):
    """Options of the benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"visitors": (10, 20, 40), "items": 60, "abandoned": 30}

    visitors: tuple[int, ...] = (100, 1000, 10_000)
    """Numbers of visitors after which the memory is measured, in ascending order."""
    items: int = 200
    """Items of the gallery; at least 49."""
    clients: int = 4
    """Visitors at the same time."""
    abandoned: int = 150
    """Searches whose answers nobody takes, at the end."""


def main(options: SessionOptions) -> dict[str, Any]:
    """Serve the page, visit it, and measure."""
    with tempfile.TemporaryDirectory() as folder:
        scene, second = _write_scene(Path(folder), options.items)
        with served(scene, f"--model=second:{scene.bundle}={second}") as server:
            return {
                "command": " ".join(["python benchmarks/sessions.py", *sys.argv[1:]]),
                "visitors": list(options.visitors),
                "at_once": options.clients,
                "items": options.items,
                "results_per_model": _RESULTS,
                **_measure(server, options),
                **environment(),
            }


def _measure(server: Server, options: SessionOptions) -> dict[str, Any]:
    functions = _functions(server)
    began, done = time.monotonic(), 0
    names = itertools.count()
    memory: dict[str, float] = {}
    size = 0
    with ThreadPoolExecutor(options.clients) as pool:
        for step in options.visitors:
            sizes = list(pool.map(lambda _: _visit(server, next(names), functions), range(step - done)))
            size, done = max(size, *sizes), step
            time.sleep(1.0)
            memory[str(step)] = round(server.memory / 2**20, 1)
            print(f"{step} visitors: {memory[str(step)]} MiB after {time.monotonic() - began:.0f} s", flush=True)
    first, last = (memory[str(step)] for step in (options.visitors[0], options.visitors[-1]))
    time.sleep(_UNREAD_S)
    return {
        "largest_answer_mib": round(size / 2**20, 2),
        "memory_mib": memory,
        "ratio": round(last / first, 3),
        "limit": _LIMIT,
        "abandoned": done // _ABANDON,
        **_abandon(server, functions, options.abandoned),
        "seconds": round(time.monotonic() - began),
    }


def _functions(server: Server) -> dict[str, int]:
    """Return the page's functions by the event that triggers them."""
    config = json.loads(_get(server.connect(), "/config"))
    return {target[1]: one["id"] for one in config["dependencies"] for target in one["targets"]}


def _abandon(server: Server, functions: dict[str, int], count: int) -> dict[str, Any]:
    """Search without reading any answer, `count` times from one address, then from as many addresses."""
    found: dict[str, Any] = {"unread_tried": count}
    for kind in ("one_address", "many_addresses"):
        sessions = []
        for number in range(count):
            address = "127.0.0.1" if kind == "one_address" else f"127.1.0.{1 + number}"
            connection = HTTPConnection("127.0.0.1", server.port, timeout=60, source_address=(address, 0))
            session = f"{kind.replace('_', '')}{number}"
            if _leave(connection, session, functions) == 200:
                sessions.append(session)
            connection.close()
        found[f"unread_kept_of_{kind}"] = len(sessions)
        time.sleep(_UNREAD_S)
        answers = [_get(server.connect(), f"/gradio_api/queue/data?session_hash={session}") for session in sessions]
        found[f"unread_left_of_{kind}"] = sum(b"hr-results" in answer for answer in answers)
    return found


def _visit(server: Server, number: int, functions: dict[str, int]) -> int:
    """Open the page and search with an item; return the bytes of the answer, 0 if the visitor does not wait for it."""
    connection = server.connect()
    session = f"visitor{number}"
    try:
        _get(connection, "/")
        _call(connection, session, functions["load"], [""])
        if number % _ABANDON == 0:
            _leave(connection, session, functions)
            return 0
        answer = _call(connection, session, functions["choose"], _SEARCH, {"id": "item-0"})
        if b"hr-results" not in answer:
            raise SystemExit(f"the search failed: {answer[:500]!r}")
        return len(answer)
    finally:
        connection.close()


def _call(connection: HTTPConnection, session: str, function: int, data: Sequence[Any], event: Any = None) -> bytes:
    """Call a function of the page as a browser does, and read the answer."""
    for _ in range(600):  # those who left may have used up the share of the address
        status = _join(connection, session, function, data, event)
        if status != 429:
            break
        time.sleep(0.1)
    if status != 200:
        raise SystemExit(f"the call was refused: {status}")
    return _get(connection, f"/gradio_api/queue/data?session_hash={session}")


def _leave(connection: HTTPConnection, session: str, functions: dict[str, int]) -> int:
    """Search without reading the answer; return the status, 200 or 429."""
    status = _join(connection, session, functions["choose"], _SEARCH, {"id": "item-0"})
    if status not in {200, 429}:
        raise SystemExit(f"the call was refused: {status}")
    return status


def _join(connection: HTTPConnection, session: str, function: int, data: Sequence[Any], event: Any) -> int:
    """Call a function of the page; return the status."""
    body = {"fn_index": function, "session_hash": session, "data": data, "event_data": event, "trigger_id": None}
    return send(connection, "POST", "/gradio_api/queue/join", json.dumps(body).encode(), kind="application/json")[0]


def _get(connection: HTTPConnection, address: str) -> bytes:
    status, answer = send(connection, "GET", address)
    if status != 200:
        raise SystemExit(f"{address}: {status} {answer!r}")
    return answer


def _write_scene(folder: Path, items: int) -> tuple[Scene, Path]:
    """Write a bundle and two indexes of the same items, with thumbnails and random vectors."""
    bundle = write_bundle(folder / "resnet18")
    thumbnails = [make_thumbnail(Image.open(io.BytesIO(photograph(number)))) for number in range(items)]
    engine = Engine(bundle)
    indexes = [_write_index(folder / f"index-{seed}", engine, thumbnails, seed) for seed in range(2)]
    return Scene(bundle=bundle, images=folder, index=indexes[0], size=items), indexes[1]


def _write_index(folder: Path, engine: Engine, thumbnails: Sequence[bytes], seed: int) -> Path:
    vectors = np.random.default_rng(seed).normal(size=(len(thumbnails), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with SearchIndex.create(folder, manifest=IndexManifest.of(engine), maintenance=False) as index:
        index.add(
            [
                NewItem(id=f"item-{number}", vector=vector, label=f"label-{number % 10}", thumbnail=thumbnail)
                for number, (vector, thumbnail) in enumerate(zip(vectors, thumbnails, strict=True))
            ]
        )
    return folder


if __name__ == "__main__":
    chosen = parse_options(SessionOptions, doc=__doc__, file=__file__)
    chosen.write("sessions", main(chosen))
