"""Jobs of many callers run together, each answered once, with its own answer."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from hardrank.serving.search.admission import Admission, OverloadedError, ShuttingDownError
from hardrank.serving.search.batching import Batcher
from tests.waiting import PATIENCE_S


class Squares:
    """Squares numbers, and remembers its batches; 13 is unlucky."""

    def __init__(self, seconds: float = 0.0, *, held: bool = False) -> None:
        """Each batch takes `seconds`, and where it is `held`, does not end before `let_go`."""
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self._seconds = seconds
        self._free = threading.Event()
        if not held:
            self.let_go()

    def let_go(self) -> None:
        self._free.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        assert self._free.wait(PATIENCE_S)
        return [ValueError("unlucky") if job == 13 else job * job for job in jobs]

    @property
    def jobs(self) -> list[int]:
        return [job for batch in self.batches for job in batch]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_lone_job_runs_at_once_and_tells_how() -> None:
    async def scene() -> None:
        batcher = Batcher[int, int](Squares(0.02), name="squares", batch=8, wait_s=PATIENCE_S)
        batcher.start()
        began = time.perf_counter()
        done = await batcher.submit(7)
        took = time.perf_counter() - began
        assert done.result == 49
        assert done.batch == 1
        assert done.queued_s < PATIENCE_S / 2  # far from what it would wait for others
        assert 0.02 <= done.ran_s <= took - done.queued_s
        await batcher.close()

    asyncio.run(scene())


def test_what_comes_during_a_batch_makes_up_the_next_ones_in_order() -> None:
    squares = Squares(held=True)

    async def scene() -> list[int]:
        batcher = Batcher[int, int](squares, name="squares", batch=4)
        batcher.start()
        first = asyncio.create_task(batcher.submit(0))
        await _until(lambda: squares.batches == [[0]])
        rest = [asyncio.create_task(batcher.submit(number)) for number in range(1, 11)]
        await _until(lambda: batcher.waiting == len(rest))
        squares.let_go()
        done = await asyncio.gather(first, *rest)
        await batcher.close()
        return [one.result for one in done]

    assert asyncio.run(scene()) == [number**2 for number in range(11)]
    assert squares.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert len(squares.threads) == 1


def test_an_announced_job_is_waited_for_and_one_that_fails_to_come_is_not() -> None:
    squares = Squares()

    async def scene() -> None:
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

    asyncio.run(scene())
    assert squares.batches == [[2, 3]]


def test_waiting_ends_after_the_time_that_was_given() -> None:
    async def scene() -> float:
        batcher = Batcher[int, int](Squares(), name="squares", batch=4, wait_s=0.05)
        batcher.start()
        with batcher.expecting():  # somebody who never comes
            done = await asyncio.wait_for(batcher.submit(2), PATIENCE_S)
        await batcher.close()
        return done.queued_s

    assert asyncio.run(scene()) >= 0.05


def test_errors_belong_to_their_jobs_alone() -> None:
    async def scene() -> None:
        batcher = Batcher[int, int](Squares(0.02), name="squares", batch=4)
        batcher.start()
        results = await asyncio.gather(*(batcher.submit(n) for n in (12, 13, 14)), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Done", "ValueError", "Done"]
        await batcher.close()

    asyncio.run(scene())


def _fails(_: Sequence[int]) -> list[int | Exception]:
    raise MemoryError("no room")


def _forgets(_: Sequence[int]) -> list[int | Exception]:
    return []


@pytest.mark.parametrize(("run", "error"), [(_fails, MemoryError), (_forgets, RuntimeError)])
def test_a_batch_that_fails_answers_all_and_the_next_one_runs(run: object, error: type[Exception]) -> None:
    async def scene() -> None:
        batcher = Batcher[int, int](run, name="broken", batch=4)  # type: ignore[arg-type]
        batcher.start()
        for _ in range(2):
            results = await asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [error] * 3
        await batcher.close()

    asyncio.run(scene())


def test_64_callers_some_of_whom_hang_up_each_get_their_own_answer_once() -> None:
    squares = Squares(0.002)
    generator = random.Random(0)
    answered: dict[int, int] = {}
    cancelled: set[int] = set()

    async def caller(batcher: Batcher[int, int], start: int) -> None:
        for number in range(start, start + 40):
            task = asyncio.create_task(batcher.submit(100 + number))
            if generator.random() < 0.3:
                # Every other one hangs up at once, before there can be an answer; the rest at any moment.
                await asyncio.sleep(generator.choice((0.0, generator.random() * 0.004)))
                task.cancel()
            try:
                done = await task
            except asyncio.CancelledError:
                cancelled.add(number)
                continue
            assert number not in answered
            answered[number] = done.result

    async def scene() -> None:
        batcher = Batcher[int, int](squares, name="squares", batch=16, wait_s=0.001)
        batcher.start()
        await asyncio.gather(*(caller(batcher, 40 * n) for n in range(64)))
        await batcher.close()

    asyncio.run(scene())
    assert answered == {number: (100 + number) ** 2 for number in range(64 * 40) if number not in cancelled}
    assert len(squares.jobs) == len(set(squares.jobs))
    assert len(cancelled) > 100
    assert max(map(len, squares.batches)) <= 16


def test_jobs_that_were_cancelled_while_they_waited_never_run() -> None:
    squares = Squares(held=True)

    async def scene() -> None:
        batcher = Batcher[int, int](squares, name="squares", batch=4)
        batcher.start()
        first = asyncio.create_task(batcher.submit(0))
        await _until(lambda: squares.batches == [[0]])
        others = [asyncio.create_task(batcher.submit(number)) for number in range(1, 5)]
        await _until(lambda: batcher.waiting == len(others))
        for task in others[:3]:
            task.cancel()
        squares.let_go()
        await asyncio.gather(first, *others, return_exceptions=True)
        await batcher.close()

    asyncio.run(scene())
    assert squares.batches == [[0], [4]]


def test_closing_answers_what_was_submitted_and_takes_no_more() -> None:
    async def scene() -> None:
        batcher = Batcher[int, int](Squares(0.03), name="squares", batch=2)
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(7)]
        await asyncio.sleep(0)
        await batcher.close()
        assert [task.result().result for task in tasks] == [number**2 for number in range(7)]
        with pytest.raises(ShuttingDownError):
            await batcher.submit(1)

    asyncio.run(scene())


def test_admission_is_all_or_none_and_tells_when_to_come_back() -> None:
    places = Admission(3)
    with places.enter(2):
        assert places.inside == 2
        with pytest.raises(OverloadedError) as caught, places.enter(2):
            pass
        assert caught.value.retry_after_s == 1
        with places.enter():
            assert places.inside == 3
    assert places.inside == 0
    with pytest.raises(OverloadedError, match="more than the 3"), places.enter(4):
        pass
    with pytest.raises(ValueError, match="inside"), places.enter(3):
        raise ValueError("inside")
    assert places.inside == 0
