"""A search with an upload counts its bytes while it lasts, and is refused unread if too many are in memory."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hardrank.serving.api.bodies import HeldBytes
from hardrank.serving.page.events import PageEvents
from hardrank.serving.page.uploads import UploadStore
from hardrank.serving.search.types import ImageQuery
from hardrank.serving.settings import Limits, Settings


@pytest.mark.anyio
async def test_uploads_are_held_during_their_searches(tmp_path: Path) -> None:
    limits = Limits(held_bytes=100, body_bytes=50)
    held = HeldBytes(limits, "uploads")
    seen: list[int] = []
    stop = asyncio.Event()

    async def search(query: ImageQuery, *_: object, **__: object) -> None:
        seen.append(held.total)
        await stop.wait()

    index = SimpleNamespace(size=5)
    service = SimpleNamespace(models={"benign": SimpleNamespace(index=index)}, search=search)
    uploads = UploadStore(tmp_path, limit=1000, largest=50, keep_s=60, held=held, least=1)
    events = PageEvents(cast(Any, service), Settings(limits=limits), uploads)
    request = SimpleNamespace(client=SimpleNamespace(host="192.0.2.1"))
    name = await uploads.add(bytes(40), owner="a")

    async def shown() -> Any:
        return (await events.search_upload(name, "", "", 1, None, False, cast(Any, request)))[0]

    first = asyncio.create_task(shown())
    while not seen:
        await asyncio.sleep(0.001)
    assert "Too many large uploads" in await shown()
    assert seen == [40]
    stop.set()
    await first
    assert held.total == 0
