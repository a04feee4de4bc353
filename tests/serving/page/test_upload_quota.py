"""The folder of uploads stays bounded and tidy."""

import asyncio
import math
import os
from pathlib import Path
from time import time

import pytest

from hardrank.serving.page import upload_quota as room
from hardrank.serving.page.upload_quota import NoRoomError, Room


def test_admits_until_the_folder_is_full_and_again_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_MEASURE_S", 0.0)
    kept = Room(tmp_path, limit=100, age_s=60)

    async def fill() -> None:
        for number in range(3):
            await kept.admit(30)
            (tmp_path / f"{number}").mkdir()
            (tmp_path / f"{number}" / "file").write_bytes(bytes(30))
        with pytest.raises(NoRoomError, match="try again"):
            await kept.admit(11)
        (tmp_path / "0" / "file").unlink()
        await kept.admit(11)

    asyncio.run(fill())


def test_what_was_admitted_counts_before_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MEASURE_S", math.inf)

    async def fill() -> None:
        kept = Room(tmp_path, limit=100, age_s=60)
        await kept.admit(60)
        with pytest.raises(NoRoomError):
            await kept.admit(41)

    asyncio.run(fill())


def test_folders_go_once_they_have_been_empty_for_long(tmp_path: Path) -> None:
    for name, age in (("old", 100), ("new", 10), ("full", 100)):
        (tmp_path / name).mkdir()
        if name == "full":
            (tmp_path / name / "file").write_bytes(b"x")
        os.utime(tmp_path / name, (time() - age, time() - age))
    asyncio.run(Room(tmp_path, limit=100, age_s=60).admit(1))
    assert {path.name for path in tmp_path.iterdir()} == {"new", "full"}


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    asyncio.run(Room(tmp_path / "later", limit=1, age_s=60).admit(1))
