"""The Chromium of this machine, without a window and without errands of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.waiting import PATIENCE_S

PATIENCE_MS: Final = 1000 * PATIENCE_S
"""For whatever a page is waited for to do: Playwright's own half minute is short where two cores have more to do."""

_PLACES: Final = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
CHROMIUM: Final = next((path for path in map(Path, _PLACES) if path.exists()), None)

needs_chromium: Final = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium at /usr/bin: apt-get install chromium")

_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Run it until the block ends; gives Playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=_ARGUMENTS, headless=True, timeout=PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class PageLog:
    """What a page requests and reports while it is open."""

    requested: list[str] = field(default_factory=list)
    """Addresses, in order."""
    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions, dialogs, and error messages of the console."""
    messages: list[str] = field(default_factory=list)
    """All messages of the console."""

    def requested_elsewhere(self, address: str) -> list[str]:
        """Return the requests that went neither to `address` nor to data of the page itself."""
        return [url for url in self.requested if not url.startswith((address, "data:", f"blob:{address}"))]


def new_visitor(browser: Any, *, width: int = 1280, height: int = 900, **options: Any) -> Any:
    """Return a context of the browser, which has its own cookies and cache."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(PATIENCE_MS)
    return context


@contextmanager
def new_page(browser: Any, *, visitor: Any = None, **options: Any) -> Iterator[tuple[Any, PageLog]]:
    """Open an empty page of `visitor`, or of a new one with these options, and record what it does."""
    context = visitor or new_visitor(browser, **options)
    page, log = context.new_page(), PageLog()

    def note(line: Any) -> None:
        log.messages.append(line.text)
        if line.type == "error":
            log.errors.append(line.text)

    def refuse(dialog: Any) -> None:
        log.errors.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("request", lambda request: log.requested.append(request.url))
    page.on("websocket", lambda socket: log.requested.append(socket.url.replace("ws:", "http:")))
    page.on("pageerror", lambda error: log.errors.append(str(error)))
    page.on("dialog", refuse)
    page.on("console", note)
    yield page, log
    page.close()
    if visitor is None:
        context.close()
