"""Batches of many callers' jobs: each caller gets its own result, once."""

import asyncio
import gc
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from hardrank.serving.search.admission import Admission, OverloadedError, ShuttingDownError
from hardrank.serving.search.batching import BatchedResult, Batcher, OneThread
from hardrank.serving.search.thread_pool import ThreadPool
from hardrank.serving.store.errors import InvalidSearchError
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class Squares:
    """Squares numbers and records its batches; 13 fails."""

    def __init__(self, seconds: float = 0.0, *, held: bool = False) -> None:
        """Each batch takes `seconds`; if `held`, it does not end before `release`."""
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self._seconds = seconds
        self._free = threading.Event()
        if not held:
            self.release()

    def release(self) -> None:
        self._free.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        assert self._free.wait(PATIENCE_S)
        return [ValueError("13") if job == 13 else job * job for job in jobs]

    @property
    def jobs(self) -> list[int]:
        return [job for batch in self.batches for job in batch]


@dataclass(frozen=True, eq=False)
class Number:
    """A job to which a weak reference can be made."""

    value: int


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def _start_with_a_job(batcher: Batcher[int, int], squares: Squares) -> "asyncio.Task[BatchedResult[int]]":
    """Start a batcher and return its first job, 0, whose batch ends with `squares.release()`."""
    batcher.start()
    first = asyncio.create_task(batcher.submit(0))
    await _until(lambda: squares.batches == [[0]])
    return first


async def _cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_lone_job_runs_immediately() -> None:
    batcher = Batcher[int, int](Squares(0.02), name="squares", batch=8, wait_s=PATIENCE_S)
    batcher.start()
    began = time.perf_counter()
    done = await batcher.submit(7)
    took = time.perf_counter() - began
    assert done.result == 49
    assert done.queued_s < PATIENCE_S / 2  # far less than it would wait for others
    assert 0.02 <= done.ran_s <= took - done.queued_s
    await batcher.close()


async def test_jobs_that_arrive_during_a_batch_form_the_next_ones_in_order() -> None:
    squares = Squares(held=True)
    batcher = Batcher[int, int](squares, name="squares", batch=4)
    first = await _start_with_a_job(batcher, squares)
    rest = [asyncio.create_task(batcher.submit(number)) for number in range(1, 11)]
    await _until(lambda: batcher.waiting == len(rest))
    squares.release()
    done = await asyncio.gather(first, *rest)
    await batcher.close()
    assert [one.result for one in done] == [number**2 for number in range(11)]
    assert squares.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert len(squares.threads) == 1


async def test_many_jobs_are_shared_among_threads_that_do_not_wait_for_each_other() -> None:
    together, alone = Squares(held=True), Squares(held=True)
    one_thread = OneThread[int, int](run=alone, threads=2, batch=3)
    batcher = Batcher[int, int](together, name="squares", batch=16, one_thread=one_thread)
    first = await _start_with_a_job(batcher, together)
    rest = [asyncio.create_task(batcher.submit(number)) for number in range(1, 9)]
    await _until(lambda: batcher.waiting == len(rest))
    together.release()
    # Each thread has a share of its own, and the rest waits until one of them is free.
    await _until(lambda: len(alone.batches) == 2)
    assert (batcher.waiting, sorted(alone.batches)) == (2, [[1, 2, 3], [4, 5, 6]])
    alone.release()
    done = await asyncio.gather(first, *rest)
    assert [one.result for one in done] == [number**2 for number in range(9)]
    assert (await batcher.submit(9)).result == 81
    await batcher.close()
    # The rest ran in one thread or, if both ended at the same time, in all of them.
    assert (together.batches[0], together.batches[-1]) == ([0], [9])
    assert sorted(together.jobs + alone.jobs) == list(range(10))


async def test_a_thread_takes_the_next_jobs_while_another_is_still_busy() -> None:
    slow = threading.Event()
    done: list[int] = []

    def run(jobs: Sequence[int]) -> list[int | Exception]:
        if 1 in jobs:
            assert slow.wait(PATIENCE_S)
        done.extend(jobs)
        return list(jobs)

    one_thread = OneThread[int, int](run=run, threads=2, batch=1)
    batcher = Batcher[int, int](run, name="squares", batch=8, one_thread=one_thread, wait_s=PATIENCE_S)
    batcher.start()
    with batcher.expecting():  # no thread starts before all are there
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(1, 9)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks[1:])
    assert not tasks[0].done()
    slow.set()
    await tasks[0]
    await batcher.close()
    assert sorted(done[:-1]) == list(range(2, 9))


async def test_few_jobs_run_in_all_threads_again_after_a_burst() -> None:
    slow = threading.Event()
    together, alone = Squares(), Squares(held=True)

    def run(jobs: Sequence[int]) -> list[int | Exception]:
        if 0 in jobs:
            assert slow.wait(PATIENCE_S)
        return alone(jobs)

    one_thread = OneThread[int, int](run=run, threads=4, batch=2)
    batcher = Batcher[int, int](together, name="squares", batch=8, one_thread=one_thread, wait_s=PATIENCE_S)
    batcher.start()
    with batcher.expecting():  # no thread starts before all are there
        burst = [asyncio.create_task(batcher.submit(number)) for number in range(8)]
        await asyncio.sleep(0)
    await _until(lambda: batcher.waiting == 0)  # each thread has two
    alone.release()
    await asyncio.gather(*burst[2:])
    late = asyncio.create_task(batcher.submit(100))
    await asyncio.sleep(0.05)
    assert batcher.waiting == 1  # not in one thread beside the last of the burst
    slow.set()
    await asyncio.gather(late, *burst[:2])
    await batcher.close()
    assert together.batches == [[100]]
    assert sorted(alone.jobs) == list(range(8))


async def test_callers_have_turns_in_a_batch() -> None:
    squares = Squares(held=True)
    batcher = Batcher[int, int](squares, name="squares", batch=4)
    first = await _start_with_a_job(batcher, squares)
    many = [asyncio.create_task(batcher.submit(number, caller="many")) for number in range(100, 110)]
    few = [asyncio.create_task(batcher.submit(number, caller="few")) for number in (1, 2)]
    await _until(lambda: batcher.waiting == 12)
    squares.release()
    await asyncio.gather(first, *many, *few)
    assert squares.batches == [[0], [100, 1, 101, 2], [102, 103, 104, 105], [106, 107, 108, 109]]
    await batcher.close()


async def test_a_caller_with_few_jobs_does_not_wait_for_the_many_of_another() -> None:
    squares = Squares(held=True)
    batcher = Batcher[int, int](squares, name="squares", batch=8)
    first = await _start_with_a_job(batcher, squares)
    many = [asyncio.create_task(batcher.submit(number, caller="many")) for number in range(100, 106)]
    one = asyncio.create_task(batcher.submit(1, caller="one"))
    await _until(lambda: batcher.waiting == 7)
    squares.release()
    await asyncio.gather(first, one, *many)
    assert squares.batches == [[0], [100, 1], [101, 102, 103, 104, 105]]
    await batcher.close()


async def test_waits_for_announced_jobs_except_failed_ones() -> None:
    squares = Squares()
    batcher = Batcher[int, int](squares, name="squares", batch=4, wait_s=PATIENCE_S)
    batcher.start()

    async def late(number: int, seconds: float) -> int:
        with batcher.expecting():
            await asyncio.sleep(seconds)
            if number < 0:
                raise ValueError("no image")
        return (await batcher.submit(number)).result

    began = time.perf_counter()
    results = await asyncio.gather(late(2, 0.0), late(3, 0.1), late(-1, 0.15), return_exceptions=True)
    assert list(results[:2]) == [4, 9]
    assert isinstance(results[2], ValueError)
    assert time.perf_counter() - began < PATIENCE_S / 2
    await batcher.close()
    assert squares.batches == [[2, 3]]


async def test_waits_no_longer_than_wait_s() -> None:
    batcher = Batcher[int, int](Squares(), name="squares", batch=4, wait_s=0.05)
    batcher.start()
    with batcher.expecting():  # announced, but never submitted
        done = await asyncio.wait_for(batcher.submit(2), PATIENCE_S)
    await batcher.close()
    assert done.queued_s >= 0.05


async def test_an_error_fails_only_its_own_job() -> None:
    batcher = Batcher[int, int](Squares(0.02), name="squares", batch=4)
    batcher.start()
    results = await asyncio.gather(*(batcher.submit(n) for n in (12, 13, 14)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["BatchedResult", "ValueError", "BatchedResult"]
    await batcher.close()


def _fails(_: Sequence[int]) -> list[int | Exception]:
    raise MemoryError("no room")


def _returns_nothing(_: Sequence[int]) -> list[int | Exception]:
    return []


@pytest.mark.parametrize(("run", "error"), [(_fails, MemoryError), (_returns_nothing, RuntimeError)])
async def test_a_failed_batch_fails_all_its_jobs_and_the_next_batch_runs(run: object, error: type[Exception]) -> None:
    batcher = Batcher[int, int](run, name="broken", batch=4)  # type: ignore[arg-type]
    batcher.start()
    for _ in range(2):
        results = await asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [error] * 3
    await batcher.close()


@pytest.mark.parametrize("threads", [0, 3])
async def test_64_callers_get_their_own_results_while_some_cancel(threads: int) -> None:
    squares = Squares(0.002)
    one_thread = OneThread[int, int](run=squares, threads=threads, batch=4) if threads else None
    generator = random.Random(0)
    answered: dict[int, int] = {}
    cancelled: set[int] = set()

    async def caller(batcher: Batcher[int, int], start: int) -> None:
        for number in range(start, start + 40):
            task = asyncio.create_task(batcher.submit(100 + number))
            if generator.random() < 0.3:
                # Half of these cancel immediately, before there can be a result; the others at any time.
                await asyncio.sleep(generator.choice((0.0, generator.random() * 0.004)))
                task.cancel()
            try:
                done = await task
            except asyncio.CancelledError:
                cancelled.add(number)
                continue
            assert number not in answered
            answered[number] = done.result

    batcher = Batcher[int, int](squares, name="squares", batch=16, one_thread=one_thread, wait_s=0.001)
    batcher.start()
    await asyncio.gather(*(caller(batcher, 40 * n) for n in range(64)))
    await batcher.close()
    assert answered == {number: (100 + number) ** 2 for number in range(64 * 40) if number not in cancelled}
    assert len(squares.jobs) == len(set(squares.jobs))
    assert len(cancelled) > 100
    assert max(map(len, squares.batches)) <= 16


async def test_jobs_cancelled_while_waiting_never_run() -> None:
    squares = Squares(held=True)
    batcher = Batcher[int, int](squares, name="squares", batch=4)
    first = await _start_with_a_job(batcher, squares)
    others = [asyncio.create_task(batcher.submit(number)) for number in range(1, 5)]
    await _until(lambda: batcher.waiting == len(others))
    for task in others[:3]:
        task.cancel()
    squares.release()
    await asyncio.gather(first, *others, return_exceptions=True)
    await batcher.close()
    assert squares.batches == [[0], [4]]


async def test_cancelled_jobs_free_their_memory_while_they_wait_and_others_keep_their_turns() -> None:
    squares = Squares(held=True)
    batcher = Batcher[Number, int](lambda jobs: squares([job.value for job in jobs]), name="squares", batch=1)
    batcher.start()
    first = asyncio.create_task(batcher.submit(Number(0)))
    await _until(lambda: squares.batches == [[0]])
    numbers = [Number(number) for number in range(1, 9)]
    references = [weakref.ref(number) for number in numbers]
    tasks = [asyncio.create_task(batcher.submit(numbers.pop(0), caller="ab"[number > 4])) for number in range(1, 9)]
    await _until(lambda: batcher.waiting == len(tasks))
    cancelled, tasks = [*tasks[:3], *tasks[5:]], tasks[3:5]
    await _cancel(cancelled)
    assert batcher.waiting == 2
    del cancelled[:]
    gc.collect()  # the errors of the tasks had their frames
    alive = [reference() is not None for reference in references]
    assert alive == [False] * 3 + [True] * 2 + [False] * 3
    tasks.append(asyncio.create_task(batcher.submit(Number(9), caller="a")))
    await _until(lambda: batcher.waiting == 3)
    squares.release()
    await asyncio.gather(first, *tasks, return_exceptions=True)
    await batcher.close()
    assert squares.jobs == [0, 4, 5, 9]


async def test_close_ends_if_the_last_job_is_cancelled() -> None:
    squares = Squares(held=True)
    one_thread = OneThread[int, int](run=squares, threads=3, batch=1)
    batcher = Batcher[int, int](squares, name="squares", batch=1, one_thread=one_thread)
    first = await _start_with_a_job(batcher, squares)
    last = asyncio.create_task(batcher.submit(1))
    await _until(lambda: batcher.waiting == 1)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    last.cancel()
    await asyncio.wait([last])
    squares.release()
    await asyncio.gather(first, closing)
    assert squares.jobs == [0]


@pytest.mark.parametrize("threads", [0, 4])
async def test_close_finishes_submitted_jobs_and_rejects_new_ones(threads: int) -> None:
    squares = Squares(0.03)
    one_thread = OneThread[int, int](run=squares, threads=threads, batch=2) if threads else None
    batcher = Batcher[int, int](squares, name="squares", batch=2, one_thread=one_thread)
    batcher.start()
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(7)]
    await asyncio.sleep(0)
    await batcher.close()
    assert [task.result().result for task in tasks] == [number**2 for number in range(7)]
    with pytest.raises(ShuttingDownError):
        await batcher.submit(1)


async def test_close_ends_threads_that_wait_for_a_batch_of_all_threads() -> None:
    squares = Squares(held=True)
    one_thread = OneThread[int, int](run=squares, threads=4, batch=2)
    batcher = Batcher[int, int](squares, name="squares", batch=8, one_thread=one_thread)
    first = await _start_with_a_job(batcher, squares)
    second = asyncio.create_task(batcher.submit(1))
    await _until(lambda: batcher.waiting == 1)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.1)
    squares.release()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(first, second, closing)


def test_admission_is_all_or_none_and_tells_when_to_retry() -> None:
    admission = Admission(3)
    with admission.enter(2):
        assert admission.pending == 2
        with pytest.raises(OverloadedError) as caught, admission.enter(2):
            pass
        assert caught.value.retry_after_s == 1
        with admission.enter():
            assert admission.pending == 3
    assert admission.pending == 0
    with pytest.raises(InvalidSearchError, match="limit of 3"), admission.enter(4):
        pass
    with pytest.raises(ValueError, match="inside"), admission.enter(3):
        raise ValueError("inside")
    assert admission.pending == 0


def test_admission_gives_one_caller_half() -> None:
    admission = Admission(4)
    with admission.enter(2, caller="a"):
        with pytest.raises(OverloadedError, match="2 of at most 2 queries of this caller"), admission.enter(caller="a"):
            pass
        with admission.enter(2, caller="b"):
            assert admission.pending == 4
    with pytest.raises(InvalidSearchError, match="limit of 2"), admission.enter(3, caller="a"):
        pass
    with admission.enter(2, caller="a"):
        assert admission.pending == 2


async def test_threads_serve_callers_in_turn() -> None:
    order: list[str] = []
    pool = ThreadPool(1, "test")
    release = threading.Event()
    first = asyncio.create_task(pool.run(release.wait, caller="a"))
    await asyncio.sleep(0)
    names = ["a"] * 50 + ["b", "c", "b"]
    calls = [pool.run(lambda name=name: order.append(name), caller=name) for name in names]  # type: ignore[misc]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(first, *tasks)
    await pool.close()
    assert sorted(order[:5]) == ["a", "a", "b", "b", "c"]
    assert order[5:] == ["a"] * 48


async def test_one_caller_never_holds_the_spare_thread() -> None:
    pool = ThreadPool(2, "test", spare=1)
    release = threading.Event()
    held = [asyncio.create_task(pool.run(release.wait, caller="a")) for _ in range(20)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(pool.run(lambda: 7, caller="b"), PATIENCE_S) == 7
    release.set()
    assert all(await asyncio.gather(*held))
    await pool.close()
    with pytest.raises(ShuttingDownError):
        await pool.run(lambda: 7)


async def test_threads_pass_on_errors_and_skip_cancelled_calls() -> None:
    ran: list[int] = []
    pool = ThreadPool(1, "test")
    release = threading.Event()
    running = asyncio.create_task(pool.run(release.wait))
    waiting = [asyncio.create_task(pool.run(lambda n=n: ran.append(n))) for n in range(4)]  # type: ignore[misc]
    failing = asyncio.create_task(pool.run(lambda: 1 // 0))
    await asyncio.sleep(0)
    waiting[1].cancel()
    running.cancel()
    release.set()
    await asyncio.gather(running, *waiting, failing, return_exceptions=True)
    assert isinstance(failing.exception(), ZeroDivisionError)
    await pool.close()
    assert ran == [0, 2, 3]


async def test_cancelled_calls_free_their_memory_while_they_wait_and_others_keep_their_turns() -> None:
    ran: list[int] = []
    pool = ThreadPool(1, "test")
    release = threading.Event()
    running = asyncio.create_task(pool.run(partial(release.wait, PATIENCE_S)))
    await asyncio.sleep(0)
    calls: list[Callable[[], None]] = [partial(ran.append, number) for number in range(1, 9)]
    references = [weakref.ref(call) for call in calls]
    tasks = [asyncio.create_task(pool.run(calls.pop(0), caller="ab"[number > 4])) for number in range(1, 9)]
    await asyncio.sleep(0)
    cancelled, tasks = [*tasks[:3], *tasks[5:]], tasks[3:5]
    await _cancel(cancelled)
    del cancelled[:]
    gc.collect()  # the errors of the tasks had their frames
    alive = [reference() is not None for reference in references]
    assert alive == [False] * 3 + [True] * 2 + [False] * 3
    tasks.append(asyncio.create_task(pool.run(partial(ran.append, 9), caller="a")))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(running, *tasks, return_exceptions=True)
    await pool.close()
    assert ran == [4, 5, 9]


async def test_threads_close_if_all_that_waits_is_cancelled() -> None:
    pool = ThreadPool(1, "test")
    release = threading.Event()
    running = asyncio.create_task(pool.run(partial(release.wait, PATIENCE_S)))
    waiting = asyncio.create_task(pool.run(lambda: None))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    waiting.cancel()
    await asyncio.wait([waiting])
    release.set()
    await asyncio.gather(running, closing)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own elsewhere")
async def test_threads_may_have_a_lower_priority() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    for niceness in (0, 3):
        pool = ThreadPool(1, "test", niceness=niceness)
        assert await pool.run(priority) == min(19, priority() + niceness)
        await pool.close()
