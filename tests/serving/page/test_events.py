"""The handlers of the page's events, without a browser."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from hardrank.serving.engine import Engine
from hardrank.serving.page.events import PageEvents
from hardrank.serving.settings import Settings
from hardrank.serving.store.errors import IndexDamagedError
from tests.serving.served import make_service, paint


@pytest.fixture
def events(tmp_path: Path, engine: Engine) -> PageEvents:
    unused: Any = None
    return PageEvents(make_service(tmp_path, (engine,), paint(2)), Settings(), unused, may_scan=True)


def test_a_scan_of_too_few_items_says_so(events: PageEvents) -> None:
    unused: Any = None
    assert "2 items to compare; a scan needs at least 3" in asyncio.run(events.scan(unused))


def test_a_scan_that_fails_names_no_files(
    events: PageEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise IndexDamagedError("/srv/secret/items.sqlite cannot be read")

    unused: Any = None
    monkeypatch.setattr(events._scans, "run", fail)
    with caplog.at_level(logging.ERROR):
        shown = asyncio.run(events.scan(unused))
    assert "Internal error; the server log has the cause" in shown
    assert "/srv/secret" not in shown
    assert "/srv/secret/items.sqlite cannot be read" in caplog.text
