"""Work handed from the event loop to threads: batches of many callers' jobs in one thread, or single calls in several.

An idle `Batcher` runs a job immediately, so a lone request never waits. Jobs that arrive while a batch runs form the
next ones, in turn by caller. Only if more jobs are announced and the batch is not full does it wait for them, a few
milliseconds at most.
"""

import asyncio
import logging
import os
import sys
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Generic, TypeVar

from hardrank.serving.search.admission import ShuttingDownError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BatchedResult(Generic[Result]):
    """A job's result and its timing."""

    result: Result
    queued_s: float
    """Seconds from submission to the start of its batch."""
    ran_s: float
    """Seconds that its batch took."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _QueuedJob(Generic[Job, Result]):
    job: Job
    future: "asyncio.Future[BatchedResult[Result]]"
    since: float = field(default_factory=perf_counter)


class Batcher(Generic[Job, Result]):
    """Runs jobs in batches in its own thread. Submit jobs from the event loop in which `start` was called.

    `run` takes up to `batch` jobs and returns one result or one exception per job, in order. If it raises, all jobs of
    the batch fail with that exception. `observe` is called after each batch with its size and its seconds.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        name: str,
        batch: int,
        most_of_caller: int | None = None,
        shared_s: float = 30.0,
        wait_s: float = 0.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Take the function that runs a batch.

        Args:
            run: See above.
            name: Of the thread.
            batch: Most jobs of a batch.
            most_of_caller: Most jobs of one caller in a batch, since others wait as long as it takes; None for no
                limit but `batch`. It holds while there have been other callers in the last `shared_s` seconds.
            shared_s: See above. Jobs of the server itself have the caller "", who does not count.
            wait_s: Longest wait for announced jobs, seconds.
            observe: See above.
        """
        self._most_of_caller = batch if most_of_caller is None else most_of_caller
        self._shared_s = shared_s
        self._shared_until = 0.0
        self._last_caller = ""
        self._run = run
        self._name = name
        self._batch = batch
        self._wait_s = wait_s
        self._observe = observe
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[_QueuedJob[Job, Result]]] = OrderedDict()
        self._count = 0
        self._expected = 0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Call once, from the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Run what was submitted, then end the thread. Later calls of `submit` raise `ShuttingDownError`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def waiting(self) -> int:
        """Number of jobs waiting for a batch."""
        return self._count

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce a job for the duration of the block, which ends when the job is ready or has failed."""
        self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                if not self._expected and self._count:
                    self._changed.notify()

    async def submit(self, job: Job, *, caller: str = "") -> BatchedResult[Result]:
        """Run `job` in the next batch with room, in turn by caller.

        If cancelled before that, the job is dropped and never runs.
        """
        if self._loop is None:
            raise RuntimeError(f"the batcher {self._name!r} was not started; call start() first")
        entry = _QueuedJob[Job, Result](job=job, future=self._loop.create_future())
        with self._changed:
            if self._closing:
                raise ShuttingDownError
            if caller and caller != self._last_caller:
                self._shared_until = perf_counter() + self._shared_s if self._last_caller else 0.0
                self._last_caller = caller
            self._waiting.setdefault(caller, deque()).append(entry)
            self._count += 1
            self._changed.notify()
        return await entry.future

    # ------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while (queued := self._next()) is not None:
            if queued:
                self._run_batch(queued)

    def _next(self) -> list[_QueuedJob[Job, Result]] | None:
        """Wait for the next batch; None after `close`. Cancelled jobs are left out, so a batch may be empty."""
        with self._changed:
            while not self._count:
                if self._closing:
                    return None
                self._changed.wait()
            deadline = min(jobs[0].since for jobs in self._waiting.values()) + self._wait_s
            while self._count < self._batch and self._expected and not self._closing:
                left = deadline - perf_counter()
                if left <= 0:
                    break
                self._changed.wait(left)
            taken: list[_QueuedJob[Job, Result]] = []
            # A caller with few jobs does not wait for the many of another in the same batch.
            most = self._most_of_caller if perf_counter() < self._shared_until else self._batch
            fewest = min(len(jobs) for jobs in self._waiting.values())
            quota = most if len(self._waiting) == 1 else min(most, fewest)
            for _ in range(quota * len(self._waiting)):
                if not self._count or len(taken) == self._batch:
                    break
                entry = self._take()
                if not entry.future.cancelled():
                    taken.append(entry)
            return taken

    def _take(self) -> _QueuedJob[Job, Result]:
        """Take the oldest job of the caller whose turn it is, who then comes last."""
        caller, jobs = next(iter(self._waiting.items()))
        entry = jobs.popleft()
        self._count -= 1
        self._waiting.move_to_end(caller)
        if not jobs:
            del self._waiting[caller]
        return entry

    def _run_batch(self, queued: list[_QueuedJob[Job, Result]]) -> None:
        began = perf_counter()
        results = self._results([entry.job for entry in queued])
        ran = perf_counter() - began
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, queued, results, began, ran)
        except RuntimeError:  # the event loop is closed, so no caller is waiting
            _LOG.warning("%s: discarded %d results that finished after the event loop closed", self._name, len(queued))

    def _results(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        try:
            results = self._run(jobs)
        except Exception as error:
            return [error] * len(jobs)
        if len(results) != len(jobs):
            return [RuntimeError(f"{self._name} returned {len(results)} results for {len(jobs)} jobs")] * len(jobs)
        return results

    # ------------------------------------------------------------------ in the event loop

    def _deliver(
        self,
        queued: list[_QueuedJob[Job, Result]],
        results: Sequence[Result | Exception],
        began: float,
        ran: float,
    ) -> None:
        if self._observe is not None:
            self._observe(len(queued), ran)
        for entry, result in zip(queued, results, strict=True):
            if entry.future.done():  # cancelled by its caller
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(BatchedResult(result=result, queued_s=began - entry.since, ran_s=ran))


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
        self._waiting: OrderedDict[str, deque[tuple[Callable[[], Any], asyncio.Future[Any]]]] = OrderedDict()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, call: Callable[[], Result], *, caller: str = "") -> Result:
        """Run `call` in a thread; raises what it raises, and `ShuttingDownError` after `close`.

        A call that is cancelled while it waits never runs.
        """
        if self._closing:
            raise ShuttingDownError
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((call, future))
        self._idle.clear()
        self._start()
        return await future

    async def close(self) -> None:
        """Finish the accepted calls and end the threads."""
        self._closing = True
        await self._idle.wait()
        await asyncio.to_thread(self._executor.shutdown)

    def _start(self) -> None:
        """Start waiting calls while threads are free, then note whether any are left."""
        while self._free and (caller := self._next_caller()) is not None:
            call, future = self._waiting[caller].popleft()
            self._waiting.move_to_end(caller)
            if not self._waiting[caller]:
                del self._waiting[caller]
            if future.done():  # cancelled by its caller
                continue
            self._free -= 1
            self._running[caller] += 1
            done = asyncio.get_running_loop().run_in_executor(self._executor, call)
            done.add_done_callback(lambda done, caller=caller, future=future: self._finish(caller, future, done))  # type: ignore[misc]
        if not self._waiting and not self._running:
            self._idle.set()

    def _next_caller(self) -> str | None:
        return next((caller for caller in self._waiting if self._running[caller] < self._share), None)

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
