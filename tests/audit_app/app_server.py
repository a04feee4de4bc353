"""The app as a person starts it: a process of Streamlit, and a Chromium that looks at it."""

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

from tests.chromium import PATIENCE_MS
from tests.waiting import PATIENCE_S

ROOT: Final = Path(__file__).resolve().parents[2]


class AppServer:
    """`streamlit run audit_app/app.py` on a free port."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.url = ""
        """Known once it answers."""
        self.log = log
        # The system chooses the port: one that was found free here could be taken until Streamlit is there.
        command = [sys.executable, "-m", "streamlit", "run", "audit_app/app.py", "--server.port", "0", "--"]
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
        """Where it listens."""
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
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def visit(browser: Any, server: AppServer, *, width: int = 1280, **options: Any) -> Iterator[Any]:
    """Open the page as a new visitor; it talks to this server alone, and nothing breaks in the browser."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url.replace("ws:", "http:")))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda line: broken.append(line.text) if line.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector(".st-key-attack button:not([disabled])")
    page.wait_for_selector(".st-key-answers img")
    yield page
    context.close()
    assert not [url for url in asked if not url.startswith((server.url, "data:", f"blob:{server.url}"))]
    assert not broken


def long_attack(page: Any, *, steps: int, restarts: int = 1) -> None:
    """Choose an attack that does not end before its last step, and how long it takes: 12 steps are made a second."""
    attack = page.locator(".st-key-live-attack input")
    attack.fill("ES ·")
    attack.press("Enter")
    page.get_by_text("no longer knows it").wait_for()
    page.get_by_text("All options").click()
    for name, value in (("steps", steps), ("restarts", restarts)):
        field = page.locator(f".st-key-live-{name}-linf input")
        field.fill(str(value))
        field.press("Enter")


def finished(page: Any) -> None:
    """Wait for the result."""
    page.wait_for_selector(".st-key-rankings svg image")
    page.wait_for_selector(".st-key-record button:visible")


def rankings(page: Any) -> dict[str, dict[int, str]]:
    """What the page shows: ids by rank after the attack, by model."""
    found: dict[str, dict[int, str]] = {}
    for card in page.locator(".st-key-rankings article").all():
        told = "\n".join(card.locator("g > title").all_text_contents())
        moved = re.findall(r"^.*\((.+)\): rank \d+ → (\d+)$", told, flags=re.MULTILINE)
        found[card.locator("h3").inner_text().strip()] = {int(rank): id for id, rank in moved}
    return found


def download(page: Any, key: str) -> bytes:
    """Press a button that gives a file, and read the file."""
    with page.expect_download() as under_way:
        page.click(f".st-key-{key} button:visible")
    return Path(under_way.value.path()).read_bytes()
