"""Threads that the event loop hands blocking work to, until the server ends."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hardrank.serving.search.admission import ShuttingDownError

Result = TypeVar("Result")


class Pool:
    """A number of threads. Used from one event loop."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, name)

    async def run(self, act: Callable[[], Result]) -> Result:
        """Call `act` in a thread; raises `ShuttingDownError` once the pool is closed, and what `act` raises."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, act)
        except RuntimeError as error:  # the executor was shut down
            raise ShuttingDownError from error
        return await future

    async def close(self) -> None:
        """Finish what was accepted, and end the threads."""
        await asyncio.to_thread(self._executor.shutdown)
