"""The Chromium of this machine, without a window and without errands of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
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
