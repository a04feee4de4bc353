"""Uploads stay within the space and each visitor's share, and are deleted in time."""

import asyncio
import threading
from pathlib import Path

import pytest

from hardrank.serving.api.bodies import HeldBytes
from hardrank.serving.page import uploads as uploads_module
from hardrank.serving.page.uploads import UploadQuotaError, UploadStore, is_upload_name
from hardrank.serving.search.admission import OverloadedError
from hardrank.serving.settings import Limits
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


def store(
    folder: Path,
    *,
    limit: int = 100,
    largest: int = 20,
    keep_s: float = 600,
    least: int = 1,
    held: HeldBytes | None = None,
) -> UploadStore:
    held = held or HeldBytes(Limits(), "previews")
    return UploadStore(folder, limit=limit, largest=largest, keep_s=keep_s, held=held, least=least)


async def read(uploads: UploadStore, name: str, *, reader: str = "reader") -> bytes | None:
    async with uploads.reading(name, reader=reader) as data:
        return data


async def test_uploads_have_random_names_and_keep_their_bytes(tmp_path: Path) -> None:
    uploads = store(tmp_path)
    names = [await uploads.add(b"same bytes", owner="a") for _ in range(2)]
    assert len(set(names)) == 2
    assert all(is_upload_name(name) for name in names)
    assert [await read(uploads, name) for name in names] == [b"same bytes"] * 2
    assert await read(uploads, "x" * 22) is None


async def test_a_visitor_who_exceeds_the_share_loses_only_their_oldest_uploads(tmp_path: Path) -> None:
    uploads = store(tmp_path)
    other = await uploads.add(bytes(20), owner="other")
    names = [await uploads.add(bytes(10), owner="greedy") for _ in range(30)]
    assert uploads.size == 20 + 20
    assert await read(uploads, other) is not None
    assert [await read(uploads, name) is not None for name in names] == [False] * 28 + [True] * 2


async def test_a_newcomer_gets_space_from_the_visitor_with_the_most(tmp_path: Path) -> None:
    uploads = store(tmp_path)
    for number in range(4):
        for _ in range(5):
            await uploads.add(bytes(5), owner=f"visitor {number}")
    assert uploads.size == 100
    name = await uploads.add(bytes(5), owner="newcomer")
    assert await read(uploads, name) is not None
    assert uploads.size == 100
    with pytest.raises(UploadQuotaError):
        await uploads.add(bytes(20), owner="newcomer")


async def test_an_upload_deleted_before_it_is_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, write, may_write = store(tmp_path), uploads_module._write, threading.Event()

    def write_late(path: Path, data: bytes) -> None:
        assert may_write.wait(PATIENCE_S)
        write(path, data)

    monkeypatch.setattr(uploads_module, "_write", write_late)
    adding = [asyncio.create_task(uploads.add(bytes(20), owner="a")) for _ in range(2)]
    await asyncio.sleep(0)  # the second takes the space of the first
    may_write.set()
    names = await asyncio.gather(*adding)
    assert [await read(uploads, name) is not None for name in names] == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


async def test_an_upload_above_the_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UploadQuotaError, match="25 bytes"):
        await store(tmp_path).add(bytes(26), owner="a")


async def test_the_number_of_small_uploads_is_limited(tmp_path: Path) -> None:
    uploads = store(tmp_path, least=5)
    for size in (0, 1, 2) * 20:
        await uploads.add(bytes(size), owner="a")
    assert len(list(tmp_path.iterdir())) == 5
    assert uploads.size == 25


async def test_uploads_are_deleted_after_their_time(tmp_path: Path) -> None:
    uploads = store(tmp_path, keep_s=1)
    name = await uploads.add(bytes(20), owner="a")
    assert (tmp_path / name).exists()
    while uploads.size:
        await asyncio.sleep(0.05)
    assert not list(tmp_path.iterdir())
    assert await read(uploads, name) is None


async def test_an_upload_that_cannot_be_written_takes_no_space(tmp_path: Path) -> None:
    uploads = store(tmp_path / "missing")
    with pytest.raises(UploadQuotaError):
        await uploads.add(bytes(20), owner="a")
    assert uploads.size == 0


async def test_an_upload_is_held_while_it_is_used_and_refused_unread_beyond_the_limit(tmp_path: Path) -> None:
    held = HeldBytes(Limits(held_bytes=80, body_bytes=20), "previews")

    uploads = store(tmp_path, held=held)
    name = await uploads.add(bytes(20), owner="a")
    async with uploads.reading(name, reader="a"):
        assert held.total == 20
        (tmp_path / name).unlink()  # reading it again would find nothing
        with pytest.raises(OverloadedError):
            await read(uploads, name, reader="a")
        assert await read(uploads, name) is None
    assert held.total == 0


async def test_a_preview_counts_for_the_share_and_goes_with_its_upload(tmp_path: Path) -> None:
    uploads = store(tmp_path, keep_s=1)
    name = await uploads.add(bytes(10), owner="a")
    assert await uploads.preview(name) is None
    await uploads.add_preview(name, b"preview")
    assert (await uploads.preview(name), uploads.size) == (b"preview", 17)
    while uploads.size:
        await asyncio.sleep(0.05)
    assert await uploads.preview(name) is None
    assert not list(tmp_path.iterdir())


async def test_a_preview_without_space_is_not_stored_and_deletes_nothing(tmp_path: Path) -> None:
    uploads = store(tmp_path)
    name = await uploads.add(bytes(20), owner="a")
    await uploads.add_preview(name, bytes(6))
    assert (await uploads.preview(name), uploads.size) == (None, 20)
    assert [path.name for path in tmp_path.iterdir()] == [name]
