"""Work that is done only as long as somebody waits for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from hardrank.serving.api.bodies import ClientGoneError

Result = TypeVar("Result")


async def attended(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work`; where the caller hangs up, cancel it, which takes it out of the queue, and raise `ClientGoneError`."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("The connection was closed before the answer.")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
