"""The app as a user starts it: a Streamlit process, and Chromium."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.chromium import PATIENCE_MS, new_page
from tests.waiting import PATIENCE_S

ROOT: Final = Path(__file__).resolve().parents[2]


APP: Final = "audit_app/app.py"
_ELEMENT_MS: Final = 120_000
"""For an element of a page whose models are loaded, so that a missing one fails the test soon."""
_PRIVATE: Final = ("--server.address=127.0.0.1", "--server.headless=true", "--browser.gatherUsageStats=false")


class AppServer:
    """`streamlit run audit_app/app.py`, or another script, on a free port."""

    def __init__(self, arguments: Sequence[str], log: Path, *, script: str = APP) -> None:
        """Start it; a script other than the app has no config.toml beside it, so it gets options."""
        self.url = ""
        """Set by `wait`."""
        self.log = log
        # The system chooses the port: one that is free now could be taken before Streamlit starts.
        options = ["--server.port", "0", *([] if script == APP else _PRIVATE)]
        command = [sys.executable, "-m", "streamlit", "run", script, *options, "--"]
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < end:
            if self._answers():
                return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def addresses(self) -> set[str]:
        """Return the addresses it listens on."""
        return {place.ip for place in self._places()}

    def _places(self) -> list[Any]:
        return [
            one.laddr
            for one in psutil.Process(self.process.pid).net_connections("inet")
            if one.status == psutil.CONN_LISTEN
        ]

    def _answers(self) -> bool:
        for place in self._places():
            self.url = f"http://127.0.0.1:{place.port}"
        try:
            return bool(self.url) and httpx.get(f"{self.url}/_stcore/health", timeout=PATIENCE_S).status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def visit(browser: Any, server: AppServer, *, width: int = 1280, **options: Any) -> Iterator[Any]:
    """Open the live attack page as a new visitor; check that it talks to this server only and logs no errors."""
    with open_page(browser, server, width=width, **options) as page:
        page.wait_for_selector(".st-key-attack button:not([disabled])", timeout=PATIENCE_MS)  # models load
        page.wait_for_selector(".st-key-answers img", timeout=PATIENCE_MS)
        yield page


@contextmanager
def open_page(browser: Any, server: AppServer, *, width: int = 1280, **options: Any) -> Iterator[Any]:
    """Open the first page of a server; check that it talks to this server only and logs no errors."""
    with new_page(browser, width=width, **options) as (page, log):
        page.set_default_timeout(_ELEMENT_MS)
        page.goto(server.url)
        yield page
    assert not log.requested_elsewhere(server.url)
    assert not log.errors


def long_attack(page: Any, *, steps: int, restarts: int = 1) -> None:
    """Choose an attack that runs until its last step; 12 steps take a second."""
    attack = page.locator(".st-key-live-attack input")
    attack.fill("ES ·")
    attack.press("Enter")
    page.wait_for_selector(".st-key-choose-targets", state="detached")  # ES has no targets
    page.get_by_text("All options").click()
    for name, value in (("steps", steps), ("restarts", restarts)):
        field = page.locator(f".st-key-live-{name} input")
        field.fill(str(value))
        field.press("Enter")


def finished(page: Any) -> None:
    """Wait for the result."""
    page.wait_for_selector(".st-key-rankings svg image", timeout=PATIENCE_MS)  # the attack runs
    page.wait_for_selector(".st-key-record button:visible")


def rankings(page: Any) -> dict[str, dict[int, str]]:
    """Return what the page shows: model → rank after the attack → id."""
    found: dict[str, dict[int, str]] = {}
    for card in page.locator(".st-key-rankings article").all():
        titles = "\n".join(card.locator("g > title").all_text_contents())
        moved = re.findall(r"^.*\((.+)\): rank \d+ → (\d+)$", titles, flags=re.MULTILINE)
        found[card.locator("h3").inner_text().strip()] = {int(rank): id for id, rank in moved}
    return found


def download(page: Any, key: str) -> bytes:
    """Click a download button and return the file."""
    with page.expect_download() as under_way:
        page.click(f".st-key-{key} button:visible")
    return Path(under_way.value.path()).read_bytes()
