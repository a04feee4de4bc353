"""The search service: every caller gets the results of their own query, whatever other callers do."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardrank.models.cores import THREADS_VARIABLE
from hardrank.models.decode_limits import UndecodableImageError
from hardrank.serving.engine import Engine
from hardrank.serving.search import pipeline
from hardrank.serving.search import service as service_module
from hardrank.serving.search.admission import NotReadyError, ShuttingDownError
from hardrank.serving.search.models import ServiceError, UnknownModelError
from hardrank.serving.search.service import SearchService
from hardrank.serving.search.types import IdQuery, ImageQuery, SearchAnswer, SearchOptions
from hardrank.serving.settings import Batching, Limits, Settings
from hardrank.serving.store.errors import IndexWriteError, InvalidSearchError
from hardrank.serving.store.items import InvalidItemError, NewItem, UnknownItemError, UnknownLabelError
from tests.serving.process import running
from tests.serving.raw_clients import read_status, search_counts, send_search, slow_image
from tests.serving.served import encoded, make_service, make_source, paint, picture
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def _search(service: SearchService, data: bytes, **options: Any) -> SearchAnswer:
    return await service.search(ImageQuery(data=data), SearchOptions(**options))


@asynccontextmanager
async def _started(service: SearchService, *, ready: bool = True) -> AsyncIterator[SearchService]:
    """Run a service during the block, which begins after the warm-up if `ready`."""
    service.start()
    try:
        while ready and not service.ready:
            await asyncio.sleep(0.005)
        yield service
    finally:
        await service.close()


async def test_64_callers_get_their_own_results_while_others_cancel_and_change_items(
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
            task = asyncio.create_task(_search(service, file.data, k=3))
            if generator.random() < 0.25:
                # Half of these cancel immediately, before there can be a result; the others at any time.
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
            answer = await _search(service, data, k=1)
            assert {own.matches[0].item.id for own in answer.by_model.values()} == {f"new-{number}"}
            await service.delete(f"new-{number}")
            with pytest.raises(UnknownItemError):
                await service.item(f"new-{number}")

    async with _started(service):
        await asyncio.gather(*(caller(number) for number in range(64)), *(changer(number) for number in range(3)))
        assert service.admission.pending == 0
    assert set(answered.values()) == {1}
    assert len(answered) + cancelled == 64 * 12
    assert cancelled > 20


async def test_batched_results_equal_single_ones(tmp_path: Path, engine: Engine) -> None:
    files = paint(40)
    queries = [encoded(picture(500 + number), "JPEG") for number in range(40)]
    async with _started(make_service(tmp_path, (engine,), files)) as service:
        alone = [await _search(service, data, k=5) for data in queries]
        together = await asyncio.gather(*(_search(service, data, k=5) for data in queries))
        for one, other in zip(alone, together, strict=True):
            first, second = (answer.by_model["benign"].matches for answer in (one, other))
            assert [match.item.id for match in first] == [match.item.id for match in second]
            np.testing.assert_allclose([m.score for m in first], [m.score for m in second], atol=1e-5)


async def test_invalid_requests_are_rejected(tmp_path: Path, engine: Engine) -> None:
    data = paint(1)[0].data
    async with _started(make_service(tmp_path, (engine,), paint(10))) as service:
        for options, error in (
            (SearchOptions(k=0), InvalidSearchError),
            (SearchOptions(k=11), InvalidSearchError),
            (SearchOptions(models=("nobody",)), UnknownModelError),
        ):
            with pytest.raises(error):
                await service.search(ImageQuery(data=b"never decoded"), options)
        with pytest.raises(UnknownLabelError):
            await _search(service, data, label="nothing")
        with pytest.raises(UndecodableImageError):
            await _search(service, b"no image")
        with pytest.raises(UnknownItemError):
            await service.search(IdQuery(id="nobody"), SearchOptions())
        for wrong in ("", "a/b", " a", "a\nb", "x" * 129):
            with pytest.raises(InvalidItemError):
                await service.add(wrong, b"never decoded")
        with pytest.raises(InvalidSearchError):
            await service.search_many([], SearchOptions())
        assert len((await _search(service, data)).by_model["benign"].matches) == 10
        assert service.admission.pending == 0


async def test_an_empty_index_cannot_be_searched_until_an_item_is_added(tmp_path: Path, engine: Engine) -> None:
    data = paint(1)[0].data
    async with _started(make_service(tmp_path, (engine,), [])) as service:
        with pytest.raises(InvalidSearchError, match="empty"):
            await _search(service, data)
        _, new = await service.add("first", data)
        assert new
        assert (await _search(service, data)).by_model["benign"].matches[0].item.id == "first"


async def test_a_batch_is_admitted_as_a_whole_and_its_queries_fail_one_by_one(tmp_path: Path, engine: Engine) -> None:
    files = paint(10)
    settings = Settings(batching=Batching(pending=3), limits=Limits(batch_queries=4))
    async with _started(make_service(tmp_path, (engine,), files, settings)) as service:
        answers = await service.search_many(
            [ImageQuery(data=files[1].data), ImageQuery(data=b"x"), IdQuery(id="item-2")], SearchOptions(k=1)
        )
        assert [type(answer).__name__ for answer in answers] == [
            "SearchAnswer",
            "UndecodableImageError",
            "SearchAnswer",
        ]
        with pytest.raises(InvalidSearchError, match="fewer"):  # no later request would be admitted either
            await service.search_many([IdQuery(id="item-1")] * 4, SearchOptions(k=1))
        with pytest.raises(InvalidSearchError, match="1 to 4"):
            await service.search_many([IdQuery(id="item-1")] * 5, SearchOptions(k=1))


async def test_requests_are_rejected_before_the_warm_up_and_after_close(tmp_path: Path, engine: Engine) -> None:
    data = paint(1)[0].data
    service = make_service(tmp_path, (engine,), paint(10))
    async with _started(service, ready=False):
        with pytest.raises(NotReadyError):
            await _search(service, data)
        with pytest.raises(NotReadyError):
            await service.add("new", data)
    with pytest.raises(ShuttingDownError):
        await _search(service, data)


async def test_close_answers_accepted_requests(tmp_path: Path, engine: Engine) -> None:
    files = paint(10)
    async with _started(make_service(tmp_path, (engine,), files)) as service:
        tasks = [asyncio.create_task(_search(service, file.data, k=1)) for file in files * 4]
        while service.admission.pending < len(tasks):
            await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks)
    assert [answer.by_model["benign"].matches[0].item.id for answer in answers] == [file.id for file in files * 4]


async def test_as_many_decoders_as_usable_cores_and_a_spare_one(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    files = paint(16)
    service = make_service(tmp_path, (engine,), files)
    threads: set[str] = set()
    async with _started(service):
        await asyncio.gather(*(_search(service, file.data, k=1) for file in files))
        threads.update(thread.name for thread in threading.enumerate() if thread.name.startswith("decode"))
    assert 1 <= len(threads) <= 2


def test_models_need_different_keys(tmp_path: Path, engine: Engine) -> None:
    service = make_service(tmp_path, (engine,), paint(3))
    model = service.models["benign"]
    for models in ([], [model, model]):
        with pytest.raises(ServiceError):
            SearchService(models, Settings())
    model.index.close()


def test_queries_of_disconnected_callers_never_reach_the_network(
    tmp_path: Path, engine: Engine, benign_bundle: Path
) -> None:
    """Over real sockets: callers disconnect while they wait for the only decoder."""
    slow = slow_image()
    source = make_source(tmp_path / "index", benign_bundle, engine, paint(12))
    with running([source], "--no-page", "--rate", "0", "--decoders", "1") as server:
        before = search_counts(server.client)
        callers = [send_search(server.url, slow) for _ in range(20)]
        until(lambda: search_counts(server.client).arrived == len(callers))
        for connection in callers:
            connection.close()
        until(lambda: (now := search_counts(server.client)).ended == len(callers) and not now.pending)
        after = search_counts(server.client)
        embedded = after.embedded - before.embedded
        assert embedded < len(callers)  # else all were embedded before they disconnected, and the test saw nothing
        assert embedded <= after.answered + 3  # and those that had just passed the decoder
        assert read_status(send_search(server.url, paint(1)[0].data)) == 200


async def test_images_that_are_slow_to_decode_do_not_hold_up_other_callers(tmp_path: Path, engine: Engine) -> None:
    files = paint(4)
    service = make_service(tmp_path, (engine,), files, Settings(batching=Batching(decoders=1)))
    async with _started(service):
        slow = ImageQuery(data=slow_image())
        held = [asyncio.create_task(service.search(slow, SearchOptions(), caller="a")) for _ in range(6)]
        await asyncio.sleep(0)
        await service.search(ImageQuery(data=files[0].data), SearchOptions(), caller="b")
        assert not held[-1].done()  # first come, first served would answer all of them before
        await asyncio.gather(*held)


async def test_labels_are_counted_once_for_each_state_of_the_gallery(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(tmp_path, (engine,), paint(6))
    index = service.models["benign"].index
    counted: list[dict[str, int]] = []
    count = index.labels

    def spy() -> dict[str, int]:
        counted.append(count())
        return counted[-1]

    monkeypatch.setattr(index, "labels", spy)
    async with _started(service):
        counts = await asyncio.gather(*(service.labels() for _ in range(5)))
        assert counts == [{"blue": 2, "green": 2, "red": 2}] * 5
        assert len(counted) == 1
        await service.delete("item-0")
        assert await service.labels() == {"blue": 2, "green": 2, "red": 1}
        await service.add("new", paint(1)[0].data, label="red")
        assert await service.labels() == {"blue": 2, "green": 2, "red": 2}
        assert len(counted) == 3


async def test_changes_are_made_in_turn_by_caller(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(tmp_path, (engine,), paint(8))
    index = service.models["benign"].index
    may_delete, deleted, delete = threading.Event(), list[str](), index.delete

    def wait_and_delete(ids: list[str]) -> None:
        may_delete.wait(PATIENCE_S)
        delete(ids)
        deleted.extend(ids)

    monkeypatch.setattr(index, "delete", wait_and_delete)
    async with _started(service):
        tasks = [asyncio.create_task(service.delete(f"item-{number}", caller="a")) for number in range(6)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(service.delete("item-6", caller="b")))
        await asyncio.sleep(0)
        tasks[5].cancel()
        may_delete.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert "item-6" in deleted[:3]
        assert "item-5" not in deleted


async def test_searches_for_many_results_do_not_hold_up_others(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = paint(6)
    service = make_service(tmp_path, (engine,), files)
    monkeypatch.setattr(pipeline, "_MAX_LIGHT_RESULTS", 4)
    index = service.models["benign"].index
    search, go_on = index.search, threading.Event()

    def wait_if_large(queries: Any, k: int, **options: Any) -> Any:
        assert k < 5 or go_on.wait(PATIENCE_S)
        return search(queries, k, **options)

    async with _started(service):
        monkeypatch.setattr(index, "search", wait_if_large)  # after the warm-up, which searches, too
        large = asyncio.create_task(service.search(IdQuery(id="item-0"), SearchOptions(k=5), caller="a"))
        await asyncio.sleep(0)
        small = await service.search(IdQuery(id="item-0"), SearchOptions(k=4), caller="b")
        assert not large.done()
        go_on.set()
        found = await large
        assert found.by_model["benign"].matches[:4] == small.by_model["benign"].matches


async def test_the_results_of_one_request_are_limited_in_bytes(
    tmp_path: Path, engine: Engine, robust_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = paint(8)
    service = make_service(tmp_path, (engine, robust_engine), files)
    for model in service.models.values():
        vector = model.index.vector("item-0")
        model.index.add([NewItem(id="large", vector=vector, label="new", metadata={"text": "é" * 8000})])
    monkeypatch.setattr(service_module, "_MOST_ANSWER_BYTES", 70_000)
    async with _started(service):
        query, two = IdQuery(id="item-0"), SearchOptions(k=2)
        size = (await service.search(query, two)).size
        assert 32_000 < size < 35_000
        answers = await service.search_many([query] * 5, two)
        assert [type(answer) for answer in answers] == 2 * [SearchAnswer] + 3 * [InvalidSearchError]
        monkeypatch.setattr(service_module, "_MOST_ANSWER_BYTES", 30_000)
        with pytest.raises(InvalidSearchError, match="smaller k"):
            await service.search(query, two)
        assert await service.search(query, SearchOptions(k=2, models=("benign",)))


async def test_indexes_that_cannot_be_refreshed_are_logged_once(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(tmp_path, (engine,), paint(3))
    monkeypatch.setattr(service_module, "_REFRESH_S", 0.001)
    tries = 0

    def fail() -> bool:
        nonlocal tries
        tries += 1
        raise IndexWriteError("items.sqlite cannot be written (disk is full)")

    monkeypatch.setattr(service.models["benign"].index, "refresh", fail)
    async with _started(service):
        while tries < 5:
            await asyncio.sleep(0.001)
    assert caplog.text.count("cannot be refreshed now: items.sqlite") == 1
    assert "Traceback" not in caplog.text
