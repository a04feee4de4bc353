"""The layout of a TIFF: its size, and how its pixels are cut into strips or tiles."""

import struct
from collections.abc import Mapping
from typing import Final

from hardrank.models.image_files.limits import FEW_PARTS
from hardrank.models.image_files.stripped_file import StructureLimitError
from hardrank.models.image_files.tiff_directory import Tag

LONGEST_ARRAY: Final = 65_536
"""Most strips or tiles: one per row of the tallest image and plane, or tiles of 32×32 for the largest image."""
_LARGEST_TILE: Final = 2048
"""Pixels a side, for an image that is smaller."""
_SHORT, _LONG = 3, 4
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _PLANAR = 256, 257, 258, 259, 277, 284
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_JPEG: Final = 7
_UNCOMPRESSED: Final = {1, 32771}
_COMPRESSIONS: Mapping[int, str] = {
    1: "none",
    2: "CCITT RLE",
    3: "CCITT group 3",
    4: "CCITT group 4",
    5: "LZW",
    _JPEG: "JPEG",
    8: "Deflate",
    32771: "none, 16-bit words",
    32773: "PackBits",
    32946: "Deflate",
    50000: "Zstandard",
    50001: "WebP",
}
"""Not old-style JPEG and LZMA, whose decoders take memory that no header limits, nor formats of single vendors."""


class TiffLayout:
    """The size of a TIFF and how its pixels are cut into strips or tiles; raises `StructureLimitError`."""

    def __init__(self, data: bytes, tags: Mapping[int, Tag], endian: str) -> None:
        self._data, self._tags, self._endian = data, tags, endian
        compression = self._number(_COMPRESSION, 1)
        if compression not in _COMPRESSIONS:
            raise ValueError(f"the TIFF compression {compression} is not supported; use LZW or Deflate")
        self._compression = compression
        width, height = self._number(_WIDTH, 0), self._number(_HEIGHT, 0)
        self.size = (width, height)
        if width < 1 or height < 1:
            return
        tiled = _TILE_OFFSETS in tags or _TILE_WIDTH in tags
        if tiled:
            piece = (self._number(_TILE_WIDTH, 0), self._number(_TILE_HEIGHT, 0))
            if min(piece) < 1:
                raise ValueError(f"the TIFF has tiles of {piece[0]}×{piece[1]} pixels")
            self._check_tile(piece)
        else:
            piece = (width, min(height, self._number(_ROWS_PER_STRIP, height) or height))
        planar = self._number(_PLANAR, 1) == 2
        samples = self._number(_SAMPLES, 1)
        bits = self._numbers(_BITS) or [1]
        pixel_bits = sum(bits) if len(bits) > 1 else bits[0] * samples
        self._pieces = -(-width // piece[0]) * -(-height // piece[1]) * (samples if planar else 1)
        self.buffer_bytes = piece[0] * piece[1] * pixel_bits // 8
        self._check_count(whole=piece == self.size and not planar)

    buffer_bytes = 0
    _pieces = 0

    @property
    def slow(self) -> bool:
        """Whether Pillow decodes many strips or tiles one by one, in Python."""
        return self._compression in _UNCOMPRESSED and self._pieces > FEW_PARTS

    def scans(self) -> int:
        """Return the largest number of JPEG scans in a strip or tile."""
        if self._compression != _JPEG:
            return 1
        offsets = self._numbers(_TILE_OFFSETS) or self._numbers(_STRIP_OFFSETS)
        sizes = self._numbers(_TILE_SIZES) or self._numbers(_STRIP_SIZES)
        if len(sizes) != len(offsets) or sum(sizes) > len(self._data):
            raise ValueError("the JPEG strips or tiles of the TIFF claim more bytes than the file has")
        found = (
            self._data.count(b"\xff\xda", offset, offset + size) for offset, size in zip(offsets, sizes, strict=True)
        )
        return max(found, default=1)

    def _check_tile(self, tile: tuple[int, int]) -> None:
        for side, length in zip(tile, self.size, strict=True):
            if side > max(_LARGEST_TILE, length + -length % 16):
                raise StructureLimitError(
                    f"The TIFF has tiles of {tile[0]}×{tile[1]} pixels, above the limit of {_LARGEST_TILE} a side "
                    f"for an image of {self.size[0]}×{self.size[1]}"
                )

    def _check_count(self, *, whole: bool) -> None:
        tags = [self._tags[number] for number in (_STRIP_OFFSETS, _TILE_OFFSETS) if number in self._tags]
        most = max((tag.count for tag in tags), default=0)
        if self._pieces > LONGEST_ARRAY:
            raise StructureLimitError(
                f"The TIFF has {self._pieces} strips or tiles, above the limit of {LONGEST_ARRAY}"
            )
        # Pillow decodes every strip that is listed, except if each is the whole image.
        if self._compression in _UNCOMPRESSED and most > self._pieces and not whole:
            raise ValueError(f"the TIFF has {most} strips or tiles, but its size needs {self._pieces}")

    def _number(self, tag: int, default: int) -> int:
        return next(iter(self._numbers(tag)), default)

    def _numbers(self, number: int) -> list[int]:
        tag = self._tags.get(number)
        if tag is None:
            return []
        if tag.kind not in (_SHORT, _LONG):
            raise ValueError(f"the tag {number} of the TIFF has the type {tag.kind}")
        data, start = (tag.value, 0)
        if tag.size > 4:
            data, start = self._data, struct.unpack(f"{self._endian}I", tag.value)[0]
        if start + tag.size > len(data):
            raise ValueError(f"the tag {number} of the TIFF lies beyond the end of the file")
        code = "H" if tag.kind == _SHORT else "I"
        return list(struct.unpack_from(f"{self._endian}{tag.count}{code}", data, start))
