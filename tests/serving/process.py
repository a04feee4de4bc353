"""The command as a real process on a real port."""

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
class Running:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    said: str
    """What it printed while it started."""
    client: httpx.Client
    """Asks it."""

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "serving/app.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def running(models: Sequence[str], *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """Serve `models` (BUNDLE=INDEX) on a free port until the block ends."""
    sources = [argument for model in models for argument in ("--model", model)]
    process = start(*sources, "--port", "0", *arguments, environment=environment)
    said = ""
    try:
        assert process.stdout is not None
        while not (match := re.search(r"API +(http://\S+:\d+)/v1/", said)):
            line = process.stdout.readline()
            assert line, f"the server ended: {said}"
            said += line
        with patient_client(match[1]) as client:
            until(lambda: _is_ready(client))
            yield Running(process=process, url=match[1], said=said, client=client)
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
