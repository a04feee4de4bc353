"""A limit on the disk space of uploads. Gradio deletes old files, but sets no limit and leaves empty folders."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Final

from hardrank.models.errors import HardrankError

_INTERVAL_S: Final = 5.0
"""Seconds for which a measurement is reused."""


class UploadQuotaError(HardrankError):
    """The folder of uploads is full."""


class UploadQuota:
    """Counts the bytes of uploads against a limit. Used from one event loop.

    The count is the last measurement of the folder plus every upload that the measurement may have missed: those that
    were not finished when it began, and those admitted since. So it is never too low, and a new measurement corrects
    it once files have been deleted.
    """

    def __init__(self, measure: Callable[[], int], *, limit: int, interval_s: float = _INTERVAL_S) -> None:
        """Admit uploads while they take at most `limit` bytes.

        `measure` returns the bytes in use. It runs in a thread, at most once every `interval_s` seconds.
        """
        self._measure = measure
        self._limit = limit
        self._interval_s = interval_s
        self._lock = asyncio.Lock()
        self._used = 0
        self._unfinished = 0
        self._measured_at = -float("inf")

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes until the upload is on disk, which is when the block ends.

        Raises:
            UploadQuotaError: The upload does not fit.
        """
        async with self._lock:
            await self._refresh()
            if self._used + size > self._limit:
                raise UploadQuotaError("The server's space for uploads is full. Try again in a few minutes.")
            self._used += size
            self._unfinished += size
        try:
            yield
        finally:
            self._unfinished -= size

    async def _refresh(self) -> None:
        if monotonic() - self._measured_at < self._interval_s:
            return
        unfinished = self._unfinished
        self._used = await asyncio.to_thread(self._measure) + unfinished
        self._measured_at = monotonic()


def measure_uploads(folder: Path, *, age_s: float) -> int:
    """Return the bytes of all files in `folder`, and delete subfolders that have been empty for `age_s` seconds."""
    total, oldest = 0, time() - age_s
    for name, _, files in os.walk(folder, topdown=False):
        subfolder = Path(name)
        total += sum(_size(subfolder / file) for file in files)
        if not files and subfolder != folder and _modified(subfolder) < oldest:
            try:
                subfolder.rmdir()
            except OSError:
                continue  # no longer empty
    return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time()
