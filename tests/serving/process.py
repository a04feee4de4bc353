"""The command as a real process on a real port."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, eq=False)
class Running:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    said: str
    """What it printed while it started."""

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


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
        wait_until_ready(match[1])
        yield Running(process=process, url=match[1], said=said)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_until_ready(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("the server did not get ready")
