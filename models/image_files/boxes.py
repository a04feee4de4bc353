"""The boxes of AVIF, HEIC and JPEG 2000 files: a length, a type of four letters, and a body that may be boxes again."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hardrank.models.image_files.stripped_file import StructureLimitError

_MAX_BOXES: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a box is in its file."""

    type: bytes
    start: int
    """Of the length, which comes first."""
    body: int
    end: int


class BoxReader:
    """Reads the boxes of a file, and not more than 10 000 of them in all: boxes of boxes could be millions."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = _MAX_BOXES

    def read(self, start: int, end: int) -> Iterator[Box]:
        """Yield the boxes from `start` to `end`.

        Raises `StructureLimitError` for too many, `ValueError` for a length that is too small.
        """
        while start + 8 <= end:
            self._left -= 1
            if self._left < 0:
                raise StructureLimitError(f"The file has more than {_MAX_BOXES} boxes")
            length, kind = struct.unpack_from(">I4s", self.data, start)
            body = start + 8
            if length == 1 and start + 16 <= end:
                (length,) = struct.unpack_from(">Q", self.data, body)
                body = start + 16
            stop = end if length == 0 else min(end, start + length)
            if stop < body:
                raise ValueError(f"the length of the box {kind!r} is {length}")
            yield Box(type=kind, start=start, body=body, end=stop)
            start = stop
