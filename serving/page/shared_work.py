"""Work that several callers ask for at the same time and that is done once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(kw_only=True, eq=False)
class _Work(Generic[Result]):
    task: "asyncio.Task[Result]"
    waiting: int = 0
    """Callers that wait for it."""


class SharedWork(Generic[Result]):
    """Runs work by name: once for all who wait for it. Used from one event loop."""

    def __init__(self) -> None:
        self._running: dict[str, _Work[Result]] = {}

    async def run(self, name: str, start: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Wait for the work `name`, and start it unless it runs; raises what it raises.

        It is cancelled when all who wait for it are.
        """
        work = self._running.get(name)
        if work is None:
            work = self._running[name] = _Work(task=asyncio.create_task(start()))
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting:
                work.task.cancel()  # no effect if it is done
                del self._running[name]
