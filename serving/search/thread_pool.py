"""Single calls handed from the event loop to threads."""

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from hardrank.serving.search.admission import ShuttingDownError
from hardrank.serving.search.turn_queue import TurnQueue

Result = TypeVar("Result")


class ThreadPool:
    """A fixed number of threads for blocking calls, shared fairly. Used from one event loop.

    Waiting calls start in turn by caller, and no caller has more than `threads` running. `spare` further threads remain
    for the calls of others.
    """

    def __init__(self, threads: int, name: str, *, spare: int = 0, niceness: int = 0) -> None:
        """Take the number of threads, and how much the priority of each is lowered (Linux only)."""
        self._executor = ThreadPoolExecutor(threads + spare, name, _lower_priority, (niceness,))
        self._free = threads + spare
        self._share = threads
        self._running: Counter[str] = Counter()
        self._waiting = TurnQueue[tuple[Callable[[], Any], asyncio.Future[Any]]]()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, call: Callable[[], Result], *, caller: str = "") -> Result:
        """Run `call` in a thread; raises what it raises, and `ShuttingDownError` after `close`.

        A call that is cancelled while it waits is dropped at once and never runs.
        """
        if self._closing:
            raise ShuttingDownError
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        waiting = (call, future)
        self._waiting.add(caller, waiting)
        self._idle.clear()
        self._start()
        try:
            return await future
        except asyncio.CancelledError:
            # A queue of cancelled calls would hold the memory of their arguments.
            if self._waiting.remove(caller, waiting):
                self._start()  # notes whether calls are left
            raise

    async def close(self) -> None:
        """Finish the accepted calls and end the threads."""
        self._closing = True
        await self._idle.wait()
        await asyncio.to_thread(self._executor.shutdown)

    def _start(self) -> None:
        """Start waiting calls while threads are free, then note whether any are left."""
        while self._free and (turn := self._waiting.take(self._has_share)) is not None:
            caller, (call, future) = turn
            if future.done():  # cancelled by its caller
                continue
            self._free -= 1
            self._running[caller] += 1
            done = asyncio.get_running_loop().run_in_executor(self._executor, call)
            done.add_done_callback(partial(self._finish, caller, future))
        if not self._waiting and not self._running:
            self._idle.set()

    def _has_share(self, caller: str) -> bool:
        return self._running[caller] < self._share

    def _finish(self, caller: str, future: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        self._free += 1
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        error = done.exception()
        if not future.done():  # else cancelled by its caller
            if error is None:
                future.set_result(done.result())
            else:
                future.set_exception(error)
        self._start()


def _lower_priority(niceness: int) -> None:
    """Lower the priority of this thread, which only Linux allows."""
    if niceness and sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
