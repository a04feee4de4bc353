"""Requests of all callers run together, in one thread, as many at once as have come while the last ones ran.

An idle `Batcher` runs what comes at once: a lone request never waits. What comes while a batch runs makes up the next
one. Only where further requests are announced, and the batch is not full, it waits for them, a few milliseconds at
most.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Generic, TypeVar

from hardrank.serving.search.admission import ShuttingDownError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Done(Generic[Result]):
    """A job's result, and how it came about."""

    result: Result
    queued_s: float
    """Seconds from submission to the start of its batch."""
    ran_s: float
    """Seconds that its batch took."""
    batch: int
    """Jobs in its batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entry(Generic[Job, Result]):
    job: Job
    future: "asyncio.Future[Done[Result]]"
    since: float = field(default_factory=perf_counter)


class Batcher(Generic[Job, Result]):
    """Runs jobs together in one thread of its own. Jobs are submitted from the event loop that `start` was called in.

    `run` takes up to `batch` jobs and gives one result or one exception for each, in the same order; an exception that
    it raises is the result of all of them. `observe` hears of each batch: its size and its seconds.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        name: str,
        batch: int,
        wait_s: float = 0.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run = run
        self._name = name
        self._batch = batch
        self._wait_s = wait_s
        self._observe = observe
        self._changed = threading.Condition()
        self._waiting: deque[_Entry[Job, Result]] = deque()
        self._coming = 0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin to run jobs; called once, in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Run what was submitted, then end; `submit` raises `ShuttingDownError` from now on."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def waiting(self) -> int:
        """Jobs that wait for their batch."""
        return len(self._waiting)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce one job during the block, which ends when it is ready to be submitted, or will not be."""
        self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                if not self._coming and self._waiting:
                    self._changed.notify()

    async def submit(self, job: Job) -> Done[Result]:
        """Run `job` in the next batch that has room. Cancelled before that, it is dropped and costs nothing."""
        if self._loop is None:
            raise RuntimeError(f"the batcher {self._name} was not started")
        entry = _Entry[Job, Result](job=job, future=self._loop.create_future())
        with self._changed:
            if self._closing:
                raise ShuttingDownError
            self._waiting.append(entry)
            self._changed.notify()
        return await entry.future

    # ------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while (entries := self._next()) is not None:
            if entries:
                self._carry_out(entries)

    def _next(self) -> list[_Entry[Job, Result]] | None:
        """Wait for the next batch; None at the end. Cancelled jobs are left out, so it may be empty."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            deadline = self._waiting[0].since + self._wait_s
            while len(self._waiting) < self._batch and self._coming and not self._closing:
                left = deadline - perf_counter()
                if left <= 0:
                    break
                self._changed.wait(left)
            taken: list[_Entry[Job, Result]] = []
            while self._waiting and len(taken) < self._batch:
                entry = self._waiting.popleft()
                if not entry.future.cancelled():
                    taken.append(entry)
            return taken

    def _carry_out(self, entries: list[_Entry[Job, Result]]) -> None:
        began = perf_counter()
        outcomes = self._outcomes([entry.job for entry in entries])
        ran = perf_counter() - began
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, entries, outcomes, began, ran)
        except RuntimeError:  # the loop is closed, so nobody waits any more
            _LOG.warning("%s: %d results came after the end of the event loop", self._name, len(entries))

    def _outcomes(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        try:
            outcomes = self._run(jobs)
        except Exception as error:
            return [error] * len(jobs)
        if len(outcomes) != len(jobs):
            return [RuntimeError(f"{self._name} gave {len(outcomes)} results for {len(jobs)} jobs")] * len(jobs)
        return outcomes

    # ------------------------------------------------------------------ in the event loop

    def _deliver(
        self,
        entries: list[_Entry[Job, Result]],
        outcomes: Sequence[Result | Exception],
        began: float,
        ran: float,
    ) -> None:
        if self._observe is not None:
            self._observe(len(entries), ran)
        for entry, outcome in zip(entries, outcomes, strict=True):
            if entry.future.done():  # its caller has gone
                continue
            if isinstance(outcome, Exception):
                entry.future.set_exception(outcome)
            else:
                entry.future.set_result(
                    Done(result=outcome, queued_s=began - entry.since, ran_s=ran, batch=len(entries))
                )
