"""What runs beside the benchmarks of serving: the server as its command runs it, and the plain parts of a query."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.command import ROOT
from benchmarks.serving_scene import Scene

BATCH: Final = 32
"""Images that the server embeds at once, at most."""
FORM: Final = "multipart/form-data; boundary=frontier"
"""The type of what `form` returns."""


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


def send(
    connection: HTTPConnection, method: str, address: str, body: bytes | None = None, *, kind: str = "image/jpeg"
) -> tuple[int, bytes]:
    """Send a request, with `kind` as the type of its body; return the status and the body of the answer."""
    connection.request(method, address, body=body, headers={} if body is None else {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, answer.read()


def form(fields: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a form with these names and values, of the type `FORM`."""
    parts = (
        b'--frontier\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + content + b"\r\n"
        for name, content in fields
    )
    return b"".join(parts) + b"--frontier--\r\n"


def served(scene: Scene, *arguments: str, log: Path | None = None) -> AbstractContextManager[Server]:
    """Serve the index of a scene until the block ends; see `serve`."""
    return serve(f"resnet:{scene.bundle}={scene.index}", f"--batch={BATCH}", *arguments, log=log)


@contextmanager
def serve(model: str, *arguments: str, log: Path | None = None) -> Iterator[Server]:
    """Serve `model`, as the command takes it, until the block ends, on a free port and without a limit of the rate.

    `log` is a file for what the server writes to its standard error.
    """
    errors = None if log is None else log.open("wb")
    process = subprocess.Popen(
        [sys.executable, "serving/app.py", f"--model={model}", "--port=0", "--rate=0", *arguments],
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
            if send(server.connect(), "GET", "/readyz")[0] == 200:
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
