"""The server as a process on a free port."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.waiting import PATIENCE_S, patient_client, until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerProcess:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    output: str
    """What it printed at start."""
    client: httpx.Client

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)


def start(
    *arguments: str, environment: dict[str, str] | None = None, limit_files: int | None = None
) -> subprocess.Popen[str]:
    """Start a server, which may open at most `limit_files` files."""
    limit = [] if limit_files is None else ["sh", "-c", f'ulimit -n {limit_files}; exec "$@"', "sh"]
    return subprocess.Popen(
        [*limit, sys.executable, "serving/app.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def announced(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait until a server announces its address; return the address, and all that the server has printed."""
    assert process.stdout is not None
    output = ""
    while not (match := re.search(r"API +(http://\S+:\d+)/v1/", output)):
        line = process.stdout.readline()
        assert line, f"the server ended: {output}"
        output += line
    return match[1], output


@contextmanager
def running(
    models: Sequence[str],
    *arguments: str,
    environment: dict[str, str] | None = None,
    limit_files: int | None = None,
) -> Iterator[ServerProcess]:
    """Serve `models` (BUNDLE=INDEX) on a free port until the block ends."""
    sources = [argument for model in models for argument in ("--model", model)]
    process = start(*sources, "--port", "0", *arguments, environment=environment, limit_files=limit_files)
    try:
        url, output = announced(process)
        with patient_client(url) as client:
            until(lambda: _is_ready(client))
            yield ServerProcess(process=process, url=url, output=output, client=client)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
