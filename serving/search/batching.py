"""Jobs of many callers, handed from the event loop to threads in batches.

An idle `Batcher` runs a job immediately, so a lone request never waits. Jobs that arrive while a batch runs form the
next ones, in turn by caller. Only if more jobs are announced and the batch is not full does it wait for them, a few
milliseconds at most. With `OneThread`, many jobs are shared among threads, each of which takes the next few as soon as
it is free, so that none waits for the others.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Final, Generic, TypeVar

from hardrank.serving.search.admission import ShuttingDownError
from hardrank.serving.search.turn_queue import TurnQueue

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


Run = Callable[[Sequence[Job]], Sequence[Result | Exception]]


@dataclass(frozen=True, kw_only=True)
class OneThread(Generic[Job, Result]):
    """How to run many jobs: a few at a time in each of several threads."""

    run: Run[Job, Result]
    """As the `run` of `Batcher`, but in one thread."""
    threads: int
    batch: int
    """Most jobs of a batch of one thread."""


class Batcher(Generic[Job, Result]):
    """Runs jobs in batches in threads of its own. Submit jobs from the event loop in which `start` was called."""

    def __init__(
        self,
        run: Run[Job, Result],
        *,
        name: str,
        batch: int,
        one_thread: OneThread[Job, Result] | None = None,
        wait_s: float = 0.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Take the function that runs a batch.

        Args:
            run: Takes up to `batch` jobs and returns one result or exception per job, in order. If it raises, all jobs
                of the batch fail with that exception. It never runs beside another batch.
            name: Name of the threads.
            batch: Largest number of jobs in a batch.
            one_thread: How to share many jobs among several threads: from two jobs per thread on, until fewer jobs than
                threads are left. None: `run` runs all batches.
            wait_s: Longest wait for announced jobs, seconds.
            observe: Called after each batch with its size and its seconds.
        """
        self._run = run
        self._name = name
        self._batch = batch
        self._one_thread = one_thread
        self._wait_s = wait_s
        self._observe = observe
        self._lock = threading.Lock()
        # Lone jobs always wake the same thread, whose core has what it needs in its caches.
        self._first = threading.Condition(self._lock)
        self._others = threading.Condition(self._lock)
        self._waiting = TurnQueue[_QueuedJob[Job, Result]]()
        self._expected = 0
        self._closing = False
        self._running = 0
        self._whole = False
        self._loop: asyncio.AbstractEventLoop | None = None
        conditions = [self._first] if one_thread is None else [self._first, *[self._others] * (one_thread.threads - 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(condition,), name=name, daemon=True) for condition in conditions
        ]

    def start(self) -> None:
        """Start the threads. Call once, from the event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Run what was submitted, then end the threads. Later calls of `submit` raise `ShuttingDownError`."""
        with self._lock:
            self._closing = True
            self._wake_all()
        for thread in self._threads:
            if thread.ident is not None:
                await asyncio.to_thread(thread.join)

    @property
    def waiting(self) -> int:
        """Number of jobs waiting for a batch."""
        return len(self._waiting)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce a job for the duration of the block, which ends when the job is ready or has failed."""
        self._expected += 1
        try:
            yield
        finally:
            with self._lock:
                self._expected -= 1
                if not self._expected and self._waiting:
                    self._wake()

    async def submit(self, job: Job, *, caller: str = "") -> BatchedResult[Result]:
        """Run `job` in the next batch with room, in turn by caller.

        If cancelled before that, the job is dropped at once and never runs.
        """
        if self._loop is None:
            raise RuntimeError(f"the batcher {self._name!r} was not started; call start() first")
        entry = _QueuedJob[Job, Result](job=job, future=self._loop.create_future())
        with self._lock:
            if self._closing:
                raise ShuttingDownError
            self._waiting.add(caller, entry)
            self._wake()
        try:
            return await entry.future
        except asyncio.CancelledError:
            self._drop(caller, entry)
            raise

    def _drop(self, caller: str, entry: _QueuedJob[Job, Result]) -> None:
        """Forget a cancelled job that still waits: a queue of them would hold their memory."""
        with self._lock:
            if self._waiting.remove(caller, entry) and self._closing and not self._waiting:
                self._wake_all()

    def _wake(self) -> None:
        self._first.notify()
        if self._is_shared():
            self._others.notify()

    def _wake_all(self) -> None:
        self._first.notify_all()
        self._others.notify_all()

    def _is_shared(self) -> bool:
        """Whether each thread takes jobs of its own: from two jobs a thread on, until there are fewer than threads."""
        one = self._one_thread
        if one is None or self._whole:
            return False
        return len(self._waiting) + self._running >= (one.threads if self._running else 2 * one.threads)

    # ------------------------------------------------------------------ in the threads

    def _work(self, condition: threading.Condition) -> None:
        while (batch := self._next(condition)) is not None:
            run, queued = batch
            began = perf_counter()
            results = self._results(run, [entry.job for entry in queued]) if queued else []
            ran = perf_counter() - began
            # Before the callers learn of it: what they submit next shall not count this batch as running.
            self._end_batch()
            if queued:
                self._hand_over(partial(self._deliver, queued, results, began, ran))

    def _end_batch(self) -> None:
        with self._lock:
            self._running -= 1
            self._whole = False
            if self._waiting and not self._running:
                self._first.notify()

    def _next(self, condition: threading.Condition) -> tuple[Run[Job, Result], list[_QueuedJob[Job, Result]]] | None:
        """Wait for the next batch; None after `close`. Cancelled jobs are left out, so a batch may be empty."""
        with self._lock:
            while True:
                if self._closing and not self._waiting:
                    self._wake_all()  # those that waited for the last batch
                    return None
                alone = condition is self._first and not self._running
                if not self._waiting or not (alone or self._is_shared()):
                    condition.wait()
                elif (left := self._left_to_wait()) > 0:
                    condition.wait(left)
                else:
                    return self._start_batch()

    def _left_to_wait(self) -> float:
        """Return the seconds for which to wait for announced jobs, unless other threads are busy."""
        if self._running or len(self._waiting) >= self._batch or not self._expected or self._closing:
            return 0.0
        return min(entry.since for entry in self._waiting.oldest) + self._wait_s - perf_counter()

    def _start_batch(self) -> tuple[Run[Job, Result], list[_QueuedJob[Job, Result]]]:
        """Take the next batch: for all threads together, or this thread's share."""
        one = self._one_thread
        if one is None or not self._is_shared():
            self._whole = True
            run, most = self._run, self._batch
        else:
            run, most = one.run, min(one.batch, -(-len(self._waiting) // (one.threads - self._running)))
        self._running += 1
        taken = self._take_batch(most)
        if self._waiting and not self._whole:
            self._wake()
        return run, taken

    def _take_batch(self, most: int) -> list[_QueuedJob[Job, Result]]:
        taken: list[_QueuedJob[Job, Result]] = []
        for _ in range(self._waiting.fair):
            if len(taken) == most or (turn := self._waiting.take()) is None:
                break
            _, entry = turn
            if not entry.future.cancelled():
                taken.append(entry)
        return taken

    def _hand_over(self, deliver: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the event loop is closed, so no caller is waiting
            _LOG.warning("%s: discarded results that finished after the event loop closed", self._name)

    def _results(self, run: Run[Job, Result], jobs: list[Job]) -> Sequence[Result | Exception]:
        try:
            results = run(jobs)
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
