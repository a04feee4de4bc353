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


@pytest.fixture
def events(tmp_path: Path, engine: Engine) -> PageEvents:
    unused: Any = None
    return PageEvents(make_service(tmp_path, (engine,), paint(2)), Settings(), unused, may_scan=True)


class Labels(dict[str, int]):
    """Records the threads that go through all labels."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        super().__init__(numbers)
        self.readers: list[threading.Thread] = []

    def __iter__(self) -> Iterator[str]:
        self.readers.append(threading.current_thread())
        return super().__iter__()


def test_labels_are_chosen_once_and_not_on_the_event_loop(events: PageEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a million labels it takes a second."""
    labels = Labels({f"label-{number:04}": number % 7 for number in range(3000)})
    [model] = events._service.models.values()
    monkeypatch.setattr(model.index, "labels", lambda: labels)
    unused: Any = None

    async def opened() -> list[Any]:
        return await asyncio.gather(*(events.load("", unused) for _ in range(3)))

    [(_, _, _, _, shown, _, _), *_] = asyncio.run(opened())
    [reader] = labels.readers
    assert reader is not threading.main_thread()
    common = sorted(sorted(labels, key=lambda label: -labels[label])[:1000])
    assert shown.choices == [("All labels", ""), *((f"{label} ({labels[label]})", label) for label in common)]


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
