"""The page's events tell the service which visitor asks."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from hardrank.serving.page.events import PageEvents
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Settings


class Overloaded:
    """A service that records callers and refuses them all."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.callers: list[str] = []

    async def search(self, *_: Any, caller: str) -> None:
        self.callers.append(caller)
        raise OverloadedError("full")


@pytest.mark.parametrize(
    ("request_", "caller"),
    [
        (SimpleNamespace(client=SimpleNamespace(host="10.0.0.9")), "address 10.0.0.9"),
        (SimpleNamespace(client=None), ""),
        (None, ""),
    ],
)
def test_searches_carry_the_address_of_the_visitor(tmp_path: Path, request_: Any, caller: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"image")
    service = Overloaded()
    events = PageEvents(cast(SearchService, service), Settings())
    _, query = asyncio.run(events.search_upload(str(path), None, "", 1, None, cast(gr.Request, request_)))
    asyncio.run(events.search_again(query, "", 1, None, cast(gr.Request, request_)))
    assert service.callers == [caller, caller]
