"""Uploads stay within the space and each visitor's share, and are deleted in time."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from hardrank.serving.page.uploads import UploadQuotaError, UploadStore, is_upload_name


def store(folder: Path, *, limit: int = 100, largest: int = 20, keep_s: float = 600, least: int = 1) -> UploadStore:
    return UploadStore(folder, limit=limit, largest=largest, keep_s=keep_s, least=least)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_uploads_have_random_names_and_keep_their_bytes(tmp_path: Path) -> None:
    async def scenario() -> None:
        uploads = store(tmp_path)
        names = [await uploads.add(b"same bytes", owner="a") for _ in range(2)]
        assert len(set(names)) == 2
        assert all(is_upload_name(name) for name in names)
        assert [await uploads.read(name) for name in names] == [b"same bytes"] * 2
        assert await uploads.read("x" * 22) is None

    run(scenario())


def test_a_visitor_who_exceeds_the_share_loses_only_their_oldest_uploads(tmp_path: Path) -> None:
    async def scenario() -> None:
        uploads = store(tmp_path)
        other = await uploads.add(bytes(20), owner="other")
        names = [await uploads.add(bytes(10), owner="greedy") for _ in range(30)]
        assert uploads.size == 20 + 20
        assert await uploads.read(other) is not None
        assert [await uploads.read(name) is not None for name in names] == [False] * 28 + [True] * 2

    run(scenario())


def test_a_newcomer_gets_space_from_the_visitor_with_the_most(tmp_path: Path) -> None:
    async def scenario() -> None:
        uploads = store(tmp_path)
        for number in range(4):
            for _ in range(5):
                await uploads.add(bytes(5), owner=f"visitor {number}")
        assert uploads.size == 100
        name = await uploads.add(bytes(5), owner="newcomer")
        assert await uploads.read(name) is not None
        assert uploads.size == 100
        with pytest.raises(UploadQuotaError):
            await uploads.add(bytes(20), owner="newcomer")

    run(scenario())


def test_an_upload_above_the_share_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(UploadQuotaError, match="25 bytes"):
            await store(tmp_path).add(bytes(26), owner="a")

    run(scenario())


def test_the_number_of_small_uploads_is_limited(tmp_path: Path) -> None:
    async def scenario() -> None:
        uploads = store(tmp_path, least=5)
        for size in (0, 1, 2) * 20:
            await uploads.add(bytes(size), owner="a")
        assert len(list(tmp_path.iterdir())) == 5
        assert uploads.size == 25

    run(scenario())


def test_uploads_are_deleted_after_their_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        uploads = store(tmp_path, keep_s=1)
        name = await uploads.add(bytes(20), owner="a")
        assert (tmp_path / name).exists()
        while uploads.size:
            await asyncio.sleep(0.05)
        assert not list(tmp_path.iterdir())
        assert await uploads.read(name) is None

    run(scenario())


def test_an_upload_that_cannot_be_written_takes_no_space(tmp_path: Path) -> None:
    async def scenario() -> None:
        uploads = store(tmp_path / "missing")
        with pytest.raises(UploadQuotaError):
            await uploads.add(bytes(20), owner="a")
        assert uploads.size == 0

    run(scenario())
