"""The service: every caller gets the answer to the own image, once, whoever else asks or hangs up."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardrank.models.preprocessing import UndecodableImageError
from hardrank.serving.engine import Engine
from hardrank.serving.search.admission import NotReadyError, OverloadedError, ShuttingDownError
from hardrank.serving.search.models import ServiceError, UnknownModelError
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import IdQuery, ImageQuery, SearchOptions
from hardrank.serving.settings import Batching, Limits, Settings
from hardrank.serving.store.errors import InvalidSearchError
from hardrank.serving.store.items import InvalidItemError, UnknownItemError, UnknownLabelError
from tests.serving.callers import call, look, slow_image, status
from tests.serving.process import running
from tests.serving.served import build_index, encoded, make_service, paint, picture
from tests.waiting import until

Scene = Callable[[SearchService], Coroutine[Any, Any, None]]


def _run(service: SearchService, scene: Scene, *, ready: bool = True) -> None:
    async def act() -> None:
        service.start()
        try:
            while ready and not service.ready:
                await asyncio.sleep(0.005)
            await scene(service)
        finally:
            await service.close()

    asyncio.run(act())


def test_64_callers_each_get_their_own_answer_once_while_others_hang_up_and_items_come_and_go(
    tmp_path: Path, engine: Engine, robust_engine: Engine
) -> None:
    files = paint(48)
    service = make_service(tmp_path, (engine, robust_engine), files, Settings(batching=Batching(batch=8, pending=1000)))
    generator = random.Random(0)
    answered: Counter[tuple[int, int]] = Counter()
    cancelled = 0

    async def caller(number: int) -> None:
        nonlocal cancelled
        for turn in range(12):
            file = files[(5 * number + 11 * turn) % len(files)]
            task = asyncio.create_task(service.search_image(file.data, k=3))
            if generator.random() < 0.25:
                # Every other one hangs up at once, before there can be an answer; the rest at any moment.
                await asyncio.sleep(generator.choice((0.0, generator.random() * 0.02)))
                task.cancel()
            try:
                answer = await task
            except asyncio.CancelledError:
                cancelled += 1
                continue
            answered[number, turn] += 1
            for own in answer.by_model.values():
                assert own.matches[0].item.id == file.id
                assert own.matches[0].score == pytest.approx(1, abs=1e-4)
                assert own.timings.embed_ms > 0

    async def changer(number: int) -> None:
        data = encoded(picture(1000 + number))
        for _ in range(6):
            await service.add(f"new-{number}", data)
            answer = await service.search_image(data, k=1)
            assert {own.matches[0].item.id for own in answer.by_model.values()} == {f"new-{number}"}
            await service.delete(f"new-{number}")
            with pytest.raises(UnknownItemError):
                await service.item(f"new-{number}")

    async def scene(service: SearchService) -> None:
        await asyncio.gather(*(caller(number) for number in range(64)), *(changer(number) for number in range(3)))
        assert service.admission.inside == 0

    _run(service, scene)
    assert set(answered.values()) == {1}
    assert len(answered) + cancelled == 64 * 12
    assert cancelled > 20


def test_batched_answers_are_those_of_one_at_a_time(tmp_path: Path, engine: Engine) -> None:
    files = paint(40)
    queries = [encoded(picture(500 + number), "JPEG") for number in range(40)]

    async def scene(service: SearchService) -> None:
        alone = [await service.search_image(data, k=5) for data in queries]
        together = await asyncio.gather(*(service.search_image(data, k=5) for data in queries))
        for one, other in zip(alone, together, strict=True):
            first, second = (answer.by_model["benign"].matches for answer in (one, other))
            assert [match.item.id for match in first] == [match.item.id for match in second]
            np.testing.assert_allclose([m.score for m in first], [m.score for m in second], atol=1e-5)

    _run(make_service(tmp_path, (engine,), files), scene)


def test_what_does_not_fit_is_refused_before_any_work(tmp_path: Path, engine: Engine) -> None:
    data = paint(1)[0].data

    async def scene(service: SearchService) -> None:
        for options, error in (
            (SearchOptions(k=0), InvalidSearchError),
            (SearchOptions(k=11), InvalidSearchError),
            (SearchOptions(models=("nobody",)), UnknownModelError),
        ):
            with pytest.raises(error):
                await service.search(ImageQuery(data=b"never decoded"), options)
        with pytest.raises(UnknownLabelError):
            await service.search_image(data, label="nothing")
        with pytest.raises(UndecodableImageError):
            await service.search_image(b"no image")
        with pytest.raises(UnknownItemError):
            await service.search_id("nobody")
        for wrong in ("", "a/b", " a", "a\nb", "x" * 129):
            with pytest.raises(InvalidItemError):
                await service.add(wrong, b"never decoded")
        with pytest.raises(InvalidSearchError):
            await service.search_many([], SearchOptions())
        assert len((await service.search_image(data)).by_model["benign"].matches) == 10
        assert service.admission.inside == 0

    _run(make_service(tmp_path, (engine,), paint(10)), scene)


def test_an_empty_index_says_so_and_can_be_filled(tmp_path: Path, engine: Engine) -> None:
    data = paint(1)[0].data

    async def scene(service: SearchService) -> None:
        with pytest.raises(InvalidSearchError, match="empty"):
            await service.search_image(data)
        _, new = await service.add("first", data)
        assert new
        assert (await service.search_image(data)).by_model["benign"].matches[0].item.id == "first"

    _run(make_service(tmp_path, (engine,), []), scene)


def test_many_are_admitted_all_or_none_and_fail_one_by_one(tmp_path: Path, engine: Engine) -> None:
    files = paint(10)
    settings = Settings(batching=Batching(pending=3), limits=Limits(batch_queries=4))

    async def scene(service: SearchService) -> None:
        answers = await service.search_many(
            [ImageQuery(data=files[1].data), ImageQuery(data=b"x"), IdQuery(id="item-2")], SearchOptions(k=1)
        )
        assert [type(answer).__name__ for answer in answers] == [
            "SearchAnswer",
            "UndecodableImageError",
            "SearchAnswer",
        ]
        with pytest.raises(OverloadedError):
            await service.search_many([IdQuery(id="item-1")] * 4, SearchOptions(k=1))
        with pytest.raises(InvalidSearchError, match="1 to 4"):
            await service.search_many([IdQuery(id="item-1")] * 5, SearchOptions(k=1))

    _run(make_service(tmp_path, (engine,), files, settings), scene)


def test_nothing_is_answered_before_the_warm_up_or_after_the_end(tmp_path: Path, engine: Engine) -> None:
    data = paint(1)[0].data
    service = make_service(tmp_path, (engine,), paint(10))

    async def scene(service: SearchService) -> None:
        with pytest.raises(NotReadyError):
            await service.search_image(data)
        with pytest.raises(NotReadyError):
            await service.add("new", data)

    _run(service, scene, ready=False)
    with pytest.raises(ShuttingDownError):
        asyncio.run(service.search_image(data))


def test_closing_answers_what_was_accepted(tmp_path: Path, engine: Engine) -> None:
    files = paint(10)
    tasks: list[asyncio.Task[Any]] = []

    async def scene(service: SearchService) -> None:
        tasks.extend(asyncio.create_task(service.search_image(file.data, k=1)) for file in files * 4)
        while service.admission.inside < len(tasks):
            await asyncio.sleep(0)

    async def act() -> None:
        service = make_service(tmp_path, (engine,), files)
        service.start()
        while not service.ready:
            await asyncio.sleep(0.005)
        await scene(service)
        await service.close()
        await asyncio.gather(*tasks)

    asyncio.run(act())
    assert [task.result().by_model["benign"].matches[0].item.id for task in tasks] == [file.id for file in files * 4]


def test_models_need_names_of_their_own(tmp_path: Path, engine: Engine) -> None:
    service = make_service(tmp_path, (engine,), paint(3))
    model = service.models["benign"]
    for models in ([], [model, model]):
        with pytest.raises(ServiceError):
            SearchService(models, Settings())
    model.index.close()


def test_a_caller_who_hangs_up_is_dropped_before_the_network_runs(
    tmp_path: Path, engine: Engine, benign_bundle: Path
) -> None:
    """Over a real socket: of those who wait for a decoder, the ones that are gone never reach the network."""
    build_index(tmp_path / "index", engine, paint(12)).close()
    slow = slow_image()
    source = f"{benign_bundle}={tmp_path / 'index'}"
    with running([source], "--no-page", "--rate", "0", "--decoders", "1") as server:
        before = look(server.client)
        callers = [call(server.url, slow) for _ in range(20)]
        until(lambda: look(server.client).arrived == len(callers))
        for connection in callers:
            connection.close()
        until(lambda: (now := look(server.client)).ended == len(callers) and not now.pending)
        after = look(server.client)
        embedded = after.embedded - before.embedded
        assert embedded < len(callers)  # or all had been embedded before they hung up, and nothing was seen
        assert embedded <= after.answered + 3  # and whoever was beyond the decoder just then
        assert status(call(server.url, paint(1)[0].data)) == 200
