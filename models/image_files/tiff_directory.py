"""The directories of TIFF and EXIF."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hardrank.models.image_files.stripped_file import StructureLimitError

TIFF_ENDIAN: Final = {b"II*\x00": "<", b"MM\x00*": ">"}
"""The byte order as `struct` writes it, by signature."""
_MAX_TAGS: Final = 1000
"""Entries of a directory; files have a few dozen."""
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, kw_only=True)
class Tag:
    """An entry of a directory."""

    number: int
    kind: int
    """The type of its values."""
    count: int
    """Number of its values."""
    value: bytes
    """The last four bytes of the entry: the values if they fit, else their offset."""

    @property
    def size(self) -> int:
        """Size of its values, bytes."""
        return _TYPE_BYTES.get(self.kind, 1) * self.count


def read_directory(data: bytes, offset: int, endian: str) -> Iterator[Tag]:
    """Yield the entries of a TIFF directory, up to the end of the data; raises `StructureLimitError` for too many."""
    if offset + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{endian}H", data, offset)
    if count > _MAX_TAGS:
        raise StructureLimitError(f"The directory has {count} tags, above the limit of {_MAX_TAGS}")
    for start in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        number, kind, length, value = struct.unpack_from(f"{endian}HHI4s", data, start)
        yield Tag(number=number, kind=kind, count=length, value=value)
