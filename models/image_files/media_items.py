"""The items of AVIF and HEIC files, which are images, tiles and metadata: their types, and where their data are."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hardrank.models.image_files.boxes import Box, BoxReader
from hardrank.models.image_files.stripped_file import StructureLimitError

_MAX_ITEMS: Final = 1000
"""Tiles, thumbnails and metadata of an image; a photograph of a telephone has a few hundred."""
_MAX_EXTENTS: Final = 10_000
"""Parts of the data of all items."""
_IN_FILE, _IN_META = 0, 1


@dataclass(frozen=True, kw_only=True)
class Item:
    """An entry of the list of items."""

    id: int
    type: bytes
    place: int
    """Of the type in the file."""


def read_items(boxes: BoxReader, meta: Box) -> list[Item]:
    """Return the items of a `meta` box; raises `StructureLimitError` for too many."""
    data, items = boxes.data, list[Item]()
    for box in _parts(boxes, meta, b"iinf"):
        # A version above 0 counts items with four bytes instead of two.
        for entry in boxes.read(box.body + (8 if data[box.body] else 6), box.end):
            if len(items) == _MAX_ITEMS:
                raise StructureLimitError(f"The image has more than {_MAX_ITEMS} parts")
            wide = 4 if data[entry.body : entry.body + 1] == b"\x03" else 2
            place = entry.body + 4 + wide + 2
            if place + 4 <= entry.end:
                id = int.from_bytes(data[entry.body + 4 : entry.body + 4 + wide], "big")
                items.append(Item(id=id, type=data[place : place + 4], place=place))
    return items


def read_item_data(boxes: BoxReader, meta: Box) -> Mapping[int, bytes]:
    """Return the data of the items of a `meta` box by id.

    Raises `StructureLimitError` for data that overlap, so that they are larger than the file, or have too many parts;
    `ValueError` for a list that ends too early.
    """
    data = boxes.data
    inner = next((box.body for box in _parts(boxes, meta, b"idat")), len(data))
    found = defaultdict[int, list[bytes]](list)
    left, extents = len(data), 0
    for box in _parts(boxes, meta, b"iloc"):
        for id, method, offset, length in _extents(data, box):
            start = offset + (inner if method == _IN_META else 0)
            part = data[start : start + length] if length else data[start:]
            left, extents = left - len(part), extents + 1
            if left < 0:
                raise StructureLimitError("The parts of the image overlap")
            if extents > _MAX_EXTENTS:
                raise StructureLimitError(f"The data of the image are in more than {_MAX_EXTENTS} parts")
            found[id].append(part)
    return {id: b"".join(parts) for id, parts in found.items()}


def _parts(boxes: BoxReader, meta: Box, kind: bytes) -> Iterator[Box]:
    return (box for box in boxes.read(meta.body + 4, meta.end) if box.type == kind and box.end >= box.body + 8)


class _Numbers:
    """Reads whole numbers of any number of bytes."""

    def __init__(self, data: bytes, place: int, end: int) -> None:
        self._data, self._place, self._end = data, place, end

    def read(self, size: int) -> int:
        start = self._place
        self._place += size
        if self._place > self._end:
            raise ValueError("the list of places ends too early")
        return int.from_bytes(self._data[start : self._place], "big")


def _extents(data: bytes, box: Box) -> Iterator[tuple[int, int, int, int]]:
    """Yield item, method, offset and length of the parts of all items (ISO/IEC 14496-12, 8.11.3)."""
    numbers = _Numbers(data, box.body, box.end)
    version = numbers.read(1)
    numbers.read(3)
    sizes = numbers.read(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    count = numbers.read(wide)
    if count > _MAX_ITEMS:
        raise StructureLimitError(f"The image has more than {_MAX_ITEMS} parts")
    for _ in range(count):
        id = numbers.read(wide)
        method = numbers.read(2) & 15 if version else _IN_FILE
        numbers.read(2)
        base = numbers.read(base_size)
        for _ in range(numbers.read(2)):
            numbers.read(index_size if version else 0)
            offset = base + numbers.read(offset_size)
            yield id, method, offset, numbers.read(length_size)
