"""Do ten thousand malformed image files harm a server?

    python benchmarks/malformed_files.py           # a quarter of an hour
    python benchmarks/malformed_files.py --tiny    # a try, in a minute

Damaged copies of valid files of every format (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, HEIC) and files that
are expensive to decode are sent over several connections, as searches, forms and batches. Between them, an intact image
must find its own item. Measures the memory of the server, with the process that decodes expensive images, before,
at its peak and after; the bytes of its log; and the statuses by format. The result is
benchmarks/results/malformed_files.json.
"""

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar, Final

from benchmarks.command import BenchmarkOptions, environment, parse_options
from benchmarks.serving_processes import FORM, Server, form, send, served
from benchmarks.serving_scene import IMAGES, Scene, prepare
from tests.models.malformed_files import malformed_files, valid_files

GROWTH_LIMIT_MIB: Final = 300
LOG_LIMIT_BYTES: Final = 1_000_000
ACCEPTABLE: Final = {200, 413, 422, 429}
_BATCH: Final = 8
_CHECK_EVERY: Final = 50
"""Requests of a connection between two searches with an intact image."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"files": 300, "side": 600, "items": 200}

    files: int = 10_000
    """Malformed files."""
    side: int = 3000
    """Pixels a side of the files that are expensive to decode."""
    connections: int = 4
    """Connections that send at once."""
    items: int = 500
    """Items of the gallery."""
    seed: int = 0
    """Seed of the damage."""


class Sender:
    """Sends files over several connections, and counts the statuses by format."""

    def __init__(self, server: Server, scene: Scene) -> None:
        self.statuses: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []
        self.right = 0
        self._server = server
        self._intact = {path.stem: path.read_bytes() for path in sorted(scene.images.glob("*.jpg"))}
        self._lock = threading.Lock()

    def send(self, files: Iterator[tuple[str, bytes]]) -> None:
        """Send all files: two thirds as bodies and forms by turns, the others in batches."""
        connection = self._server.connect()
        for turn in range(sys.maxsize):
            if turn % _CHECK_EVERY == 0:
                self.check(connection, turn)
            batch = turn % 9 == 8
            with self._lock:
                taken = [file for _, file in zip(range(_BATCH if batch else 1), files, strict=False)]
            if not taken:
                return
            if batch:
                self._send_batch(connection, taken)
            else:
                [(name, data)] = taken
                body, kind = (data, "application/octet-stream") if turn % 2 else (form([("image", data)]), FORM)
                status, answer = send(connection, "POST", "/v1/search?k=3", body, kind=kind)
                self._count(name, status, answer)

    def check(self, connection: HTTPConnection, turn: int) -> None:
        """Search with an intact image, which must find its own item."""
        name = f"sent-{turn % IMAGES:02}"
        for _ in range(100):
            status, answer = send(connection, "POST", "/v1/search?k=3", self._intact[name])
            if status != 429:
                break
            time.sleep(0.1)
        if status == 200 and json.loads(answer)["models"]["resnet"]["matches"][0]["id"] == name:
            with self._lock:
                self.right += 1
        else:
            self.wrong.append(f"{name}: {status} {answer[:200]!r}")

    def _send_batch(self, connection: HTTPConnection, files: list[tuple[str, bytes]]) -> None:
        body = form([("images", data) for _, data in files])
        status, answer = send(connection, "POST", "/v1/search/batch?k=3", body, kind=FORM)
        if status != 200:
            for name, _ in files:
                self._count(name, status, answer)
            return
        for (name, _), one in zip(files, json.loads(answer)["answers"], strict=True):
            self._count(name, 200 if one["problem"] is None else one["problem"]["status"], answer)

    def _count(self, name: str, status: int, answer: bytes) -> None:
        with self._lock:
            self.statuses.setdefault(name, Counter())[str(status)] += 1
        if status not in ACCEPTABLE:
            self.wrong.append(f"{name}: {status} {answer[:200]!r}")


def measure(options: Options) -> dict[str, Any]:
    """Send intact files of every format, then the malformed ones."""
    with tempfile.TemporaryDirectory() as folder:
        scene = prepare(Path(folder), options.items)
        log = Path(folder) / "log"
        with served(scene, "--no-page", log=log) as server:
            sender = Sender(server, scene)
            sender.send(iter([(name, data) for name, files in valid_files().items() for data in files]))
            resting = server.memory
            sender.statuses.clear()
            peak, began, end = [resting], time.monotonic(), threading.Event()
            sampler = threading.Thread(target=_sample, args=(server, peak, end))
            sampler.start()
            files = malformed_files(options.files, seed=options.seed, costly_side=options.side)
            with ThreadPoolExecutor(options.connections) as pool:
                for done in [pool.submit(sender.send, files) for _ in range(options.connections)]:
                    done.result()
            seconds = time.monotonic() - began
            end.set()
            sampler.join()
            sender.check(server.connect(), 0)
            time.sleep(2)
            after = server.memory
        logged = log.stat().st_size
        print(f"the log begins: {log.read_text(encoding='utf-8', errors='replace')[:2000]}", file=sys.stderr)
    growth = _mib(after - resting)
    statuses = {name: dict(sorted(found.items())) for name, found in sender.statuses.items()}
    return {
        "files": sum(sum(found.values()) for found in statuses.values()),
        "statuses": statuses,
        "right_searches_between": sender.right,
        "wrong": sender.wrong[:20],
        "memory_mib": {"before": _mib(resting), "peak": _mib(max(peak)), "after": _mib(after)},
        "growth_mib": growth,
        "growth_limit_mib": GROWTH_LIMIT_MIB,
        "log_bytes": logged,
        "log_limit_bytes": LOG_LIMIT_BYTES,
        "seconds": round(seconds),
        "met": not sender.wrong and growth <= GROWTH_LIMIT_MIB and logged <= LOG_LIMIT_BYTES,
    }


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def _sample(server: Server, found: list[int], end: threading.Event) -> None:
    while not end.wait(0.1):
        found.append(server.memory)


def main() -> int:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    result = measure(options)
    options.write(
        "malformed_files",
        {
            "command": "python " + " ".join(sys.argv),
            **result,
            "seed": options.seed,
            "side": options.side,
            "connections": options.connections,
            **environment(),
        },
    )
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
