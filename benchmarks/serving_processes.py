"""What runs beside the benchmarks of serving: the server as its command runs it, and the plain parts of a query."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.command import ROOT
from benchmarks.serving_scene import Scene

BATCH: Final = 32
"""Images that the server embeds at once, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int
    said: str

    def connect(self, address: str = "127.0.0.1") -> HTTPConnection:
        """Open a connection from an address of this machine."""
        return HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(address, 0))

    @property
    def memory(self) -> int:
        """Resident bytes, with those of the process that decodes expensive images."""
        return memory_of(self.process.pid)


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process and its children."""
    total, parent = 0, psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += int(process.memory_info().rss)
    return total


@contextmanager
def served(scene: Scene, *arguments: str, log: Path | None = None) -> Iterator[Server]:
    """Serve the index until the block ends; `log` is a file for what the server writes to its standard error."""
    errors = None if log is None else log.open("wb")
    process = subprocess.Popen(
        [
            sys.executable,
            "serving/app.py",
            f"--model=resnet:{scene.bundle}={scene.index}",
            "--port=0",
            "--rate=0",
            f"--batch={BATCH}",
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    if errors is not None:
        errors.close()
    said = ""
    try:
        assert process.stdout is not None
        while not (match := re.search(r"http://127\.0\.0\.1:(\d+)/v1/", said)):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the server ended: {said}")
            said += line
        server = Server(process=process, port=int(match[1]), said=said)
        _wait_until_ready(server)
        yield server
        process.terminate()
        if (status := process.wait(60)) != 0:
            raise SystemExit(f"the server ended with the status {status}")
    finally:
        process.kill()


def _wait_until_ready(server: Server) -> None:
    while True:
        try:
            connection = server.connect()
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except ConnectionError:
            pass
        time.sleep(0.05)


class Plain:
    """A process of `tests/reference/serving.py`."""

    def __init__(self, kind: str, bundle: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reference.serving", kind, str(bundle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, **task: Any) -> dict[str, float]:
        """Have a task done; gives seconds by part."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        told: dict[str, float] = json.loads(self._process.stdout.readline())
        return told

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@contextmanager
def plain(scene: Scene, *kinds: str) -> Iterator[dict[str, Plain]]:
    """Run plain processes until the block ends."""
    processes = {kind: Plain(kind, scene.bundle) for kind in kinds}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.end()
