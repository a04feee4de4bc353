"""Scans for suspicious items: one at a time, and once for each state of the gallery."""

import asyncio
from collections.abc import Sequence
from typing import Final

from hardrank.models.home import typed
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.inspection.scan import ScanError, ScanOptions, ScanResult, scan

MAX_ITEMS: Final = 50_000
"""Larger galleries are scanned with the command, because a scan reads all vectors."""
_OPTIONS: Final = ScanOptions(queries=5000)


class ScanRunner:
    """Scans the last index, compared with the first one if there are two. Used from one event loop."""

    def __init__(self, indexes: Sequence[SearchIndex]) -> None:
        self._indexes = indexes
        self._lock = asyncio.Lock()
        self._done: tuple[tuple[int, ...], ScanResult] | None = None

    async def run(self) -> ScanResult:
        """Return the result for the gallery as it is now; raises `ScanError` for one that is too small or too large."""
        async with self._lock:
            index = self._indexes[-1]
            if index.size > MAX_ITEMS:
                raise ScanError(
                    f"The gallery has {index.size} items, above the limit of {MAX_ITEMS} of the page; use "
                    f"{typed('scan')} --index INDEX."
                )
            state = tuple(one.generation for one in self._indexes)
            if self._done is None or self._done[0] != state:
                other = self._indexes[0] if len(self._indexes) == 2 else None
                self._done = (state, await asyncio.to_thread(scan, index, _OPTIONS, other=other))
            return self._done[1]
