"""The folder of uploads stays within its limit and is cleaned up."""

import asyncio
import os
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from time import time

import pytest

from hardrank.serving.page.upload_quota import UploadQuota, UploadQuotaError, measure_uploads


async def upload(quota: UploadQuota, size: int) -> None:
    """Begin and finish an upload."""
    async with quota.reserve(size):
        pass


def test_measurements_free_the_space_of_deleted_files(tmp_path: Path) -> None:
    quota = UploadQuota(lambda: measure_uploads(tmp_path, age_s=60), limit=100, interval_s=0)

    async def scenario() -> None:
        for number in range(3):
            async with quota.reserve(30):
                (tmp_path / f"{number}").mkdir()
                (tmp_path / f"{number}" / "file").write_bytes(bytes(30))
        with pytest.raises(UploadQuotaError):
            await upload(quota, 11)
        (tmp_path / "0" / "file").unlink()
        await upload(quota, 11)

    asyncio.run(scenario())


def test_uploads_count_between_measurements() -> None:
    async def scenario() -> None:
        quota = UploadQuota(lambda: 0, limit=100, interval_s=float("inf"))
        await upload(quota, 60)
        with pytest.raises(UploadQuotaError):
            await upload(quota, 41)
        await upload(quota, 40)

    asyncio.run(scenario())


def test_uploads_admitted_during_a_measurement_count() -> None:
    """Two uploads come while the folder is measured, which sees neither of them."""
    began, go_on = threading.Event(), threading.Event()

    def measure() -> int:
        began.set()
        assert go_on.wait(60)
        return 0

    async def scenario() -> None:
        quota = UploadQuota(measure, limit=100, interval_s=float("inf"))
        first = asyncio.create_task(upload(quota, 50))
        await asyncio.to_thread(began.wait, 60)
        second = asyncio.create_task(upload(quota, 50))
        await asyncio.sleep(0)  # the second now runs as far as it can
        go_on.set()
        await asyncio.gather(first, second)
        with pytest.raises(UploadQuotaError):
            await upload(quota, 1)

    asyncio.run(scenario())


def test_an_upload_that_a_measurement_missed_counts_until_the_next_one() -> None:
    """It is not on disk when the measurement begins, and finishes while it runs."""

    async def scenario() -> None:
        loop, finished = asyncio.get_running_loop(), threading.Event()
        open_uploads = AsyncExitStack()
        measured = 0

        async def finish() -> None:
            await open_uploads.aclose()
            finished.set()

        def measure() -> int:
            nonlocal measured
            measured += 1
            if measured == 2:
                asyncio.run_coroutine_threadsafe(finish(), loop)
                assert finished.wait(60)
            return 0 if measured < 3 else 30

        quota = UploadQuota(measure, limit=100, interval_s=0)
        await open_uploads.enter_async_context(quota.reserve(90))
        with pytest.raises(UploadQuotaError):
            await upload(quota, 11)  # the second measurement
        await upload(quota, 70)  # the third has the upload's true size

    asyncio.run(scenario())


def test_a_failed_upload_gives_its_space_back() -> None:
    async def scenario() -> None:
        quota = UploadQuota(lambda: 0, limit=100, interval_s=0)
        with pytest.raises(ConnectionError):
            async with quota.reserve(100):
                raise ConnectionError
        await upload(quota, 100)

    asyncio.run(scenario())


def test_old_empty_folders_are_deleted(tmp_path: Path) -> None:
    for name, age in (("old", 100), ("new", 10), ("full", 100)):
        (tmp_path / name).mkdir()
        if name == "full":
            (tmp_path / name / "file").write_bytes(b"x")
        os.utime(tmp_path / name, (time() - age, time() - age))
    assert measure_uploads(tmp_path, age_s=60) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"new", "full"}


def test_a_missing_folder_is_empty(tmp_path: Path) -> None:
    assert measure_uploads(tmp_path / "missing", age_s=60) == 0
