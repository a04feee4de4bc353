"""The handlers of the page's events, without a browser."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hardrank.serving.engine import Engine
from hardrank.serving.page.events import PageEvents
from hardrank.serving.settings import Settings
from hardrank.serving.store.errors import IndexDamagedError
from tests.serving.served import make_service, paint

pytestmark = pytest.mark.anyio
UNUSED: Any = None


@pytest.fixture
def events(tmp_path: Path, engine: Engine) -> PageEvents:
    return PageEvents(make_service(tmp_path, (engine,), paint(2)), Settings(), UNUSED, may_scan=True)


class Labels(dict[str, int]):
    """Records the threads that go through all labels."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        super().__init__(numbers)
        self.readers: list[threading.Thread] = []

    def __iter__(self) -> Iterator[str]:
        self.readers.append(threading.current_thread())
        return super().__iter__()


async def test_labels_are_chosen_once_and_not_on_the_event_loop(
    events: PageEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a million labels it takes a second."""
    labels = Labels({f"label-{number:04}": number % 7 for number in range(3000)})
    [model] = events._service.models.values()
    monkeypatch.setattr(model.index, "labels", lambda: labels)

    [(_, _, _, _, shown, _, _), *_] = await asyncio.gather(*(events.load("", UNUSED) for _ in range(3)))
    [reader] = labels.readers
    assert reader is not threading.main_thread()
    common = sorted(sorted(labels, key=lambda label: -labels[label])[:1000])
    assert shown.choices == [("All labels", ""), *((f"{label} ({labels[label]})", label) for label in common)]


async def test_a_scan_of_too_few_items_says_so(events: PageEvents) -> None:
    assert "2 items to compare; a scan needs at least 3" in await events.scan(UNUSED)


async def test_a_scan_that_fails_names_no_files(
    events: PageEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise IndexDamagedError("/srv/secret/items.sqlite cannot be read")

    monkeypatch.setattr(events._scans, "run", fail)
    with caplog.at_level(logging.ERROR):
        shown = await events.scan(UNUSED)
    assert "Internal error; the server log has the cause" in shown
    assert "/srv/secret" not in shown
    assert "/srv/secret/items.sqlite cannot be read" in caplog.text
