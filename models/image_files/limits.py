"""Limits that several formats share."""

from typing import Final

FEW_PARTS: Final = 5000
"""Chunks, blocks or strips, each of which Pillow reads in Python; more of them take as long as an expensive image."""
_MAX_CHUNKS: Final = 10_000
"""Of a PNG or WebP. The headers of all are read in Python, while other threads wait."""
_FREE_CHUNKS: Final = 1000
"""Further ones need a KiB of the file each, so that a small upload cannot take as long as a large one."""


def most_chunks(data: bytes) -> int:
    """Return how many chunks a PNG or WebP may have."""
    return min(_MAX_CHUNKS, _FREE_CHUNKS + len(data) // 1024)
