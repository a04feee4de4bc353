"""How much of the disk uploads may take. Gradio deletes old files, but neither bounds nor tidies what it keeps."""

import asyncio
import os
from pathlib import Path
from time import monotonic, time
from typing import Final

from hardrank.models.errors import HardrankError

_MEASURE_S: Final = 5.0
"""Seconds for which a measured size is good enough, what was admitted since added."""


class NoRoomError(HardrankError):
    """As many uploads are kept as may be."""


class Room:
    """The folder of uploads. Used from one event loop."""

    def __init__(self, folder: Path, *, limit: int, age_s: float) -> None:
        """Admit uploads while all in `folder` take at most `limit` bytes; empty folders go after `age_s` seconds."""
        self._folder = folder
        self._limit = limit
        self._age_s = age_s
        self._taken = 0
        self._measured = -_MEASURE_S

    async def admit(self, size: int) -> None:
        """Count an upload of `size` bytes; raises `NoRoomError` where it does not fit."""
        if monotonic() - self._measured >= _MEASURE_S:
            self._measured = monotonic()
            self._taken = await asyncio.to_thread(self._tidy)
        if self._taken + size > self._limit:
            raise NoRoomError("Too many images were uploaded in the last minutes; try again in a while.")
        self._taken += size

    def _tidy(self) -> int:
        """Give the bytes of all files, and remove folders that have been empty for long."""
        total, oldest = 0, time() - self._age_s
        for folder, _, files in os.walk(self._folder, topdown=False):
            total += sum(_size(Path(folder, name)) for name in files)
            if not files and Path(folder) != self._folder and _changed(Path(folder)) < oldest:
                try:
                    Path(folder).rmdir()
                except OSError:
                    continue  # something has just come into it
        return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time()
