"""Work that several wait for runs once, and not longer than somebody waits for it."""

import asyncio

import pytest

from hardrank.serving.page.shared_work import SharedWork

pytestmark = pytest.mark.anyio


class Work:
    """Ends when told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.end = asyncio.Event()
        self.error: Exception | None = None

    async def run(self) -> str:
        self.started += 1
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"result {self.started}"


async def test_all_who_wait_get_the_same_result_and_later_ones_a_new_one() -> None:
    shared, work = SharedWork[str](), Work()
    tasks = [asyncio.create_task(shared.run("a", work.run)) for _ in range(5)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    work.end.set()
    assert await asyncio.gather(*tasks[1:]) == ["result 1"] * 4
    assert work.cancelled == 0
    assert await shared.run("a", work.run) == "result 2"


async def test_work_ends_when_nobody_waits_for_it_and_the_next_starts_anew() -> None:
    shared, work = SharedWork[str](), Work()
    tasks = [asyncio.create_task(shared.run("a", work.run)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    work.end.set()
    assert await shared.run("a", work.run) == "result 2"
    assert (work.started, work.cancelled) == (2, 1)


async def test_an_error_reaches_all() -> None:
    shared, work = SharedWork[str](), Work()
    work.error = ValueError("wrong")
    work.end.set()
    errors = await asyncio.gather(*(shared.run("a", work.run) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in errors] == [ValueError] * 2
    with pytest.raises(ValueError, match="wrong"):
        await shared.run("a", work.run)
