"""JPEG 2000: size, tiles and code-blocks. Malformed files raise `ValueError` or are passed on to the decoder."""

import struct
from collections.abc import Iterator
from typing import Final

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.image_files.boxes import Box, BoxReader
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_MAX_PIXELS: Final = 25_000_000
"""Its decoder needs about a second for four million pixels."""
_MAX_TILES: Final = 4096
_MAX_SEGMENTS: Final = 50_000
_MAX_CODING_SEGMENTS: Final = 1000
"""Files have one, or one for each component."""
_TILE: Final = 0xFF90
_TILE_DATA: Final = 0xFF93
_CODING: Final = {0xFF52: (0, 6), 0xFF53: (1, 3)}
"""Segments that say how pixels are coded: where they tell whether there are precincts, and the size of code-blocks."""
_MIN_CODE_BLOCK: Final = 256
"""Files have 1024 or more; code-blocks of 16 pixels take thirty times as long."""
_MAX_RESOLUTIONS: Final = 33
"""As the format has at most."""
_MAX_COMPONENTS: Final = 4
_MAX_BITS: Final = 16


def is_jpeg2000(data: bytes) -> bool:
    """Return whether a file is a JPEG 2000 image."""
    return data.startswith((_SIGNATURE, _CODESTREAM))


def check_jpeg2000(data: bytes) -> StrippedFile:
    """Read the size of a JPEG 2000 file; raises `StructureLimitError` for too many tiles or components."""
    start, icc = 0, b""
    if data.startswith(_SIGNATURE):
        start = -1
        boxes = BoxReader(data)
        for box in boxes.read(0, len(data)):
            if box.type == b"jp2h":
                parts = boxes.read(box.body, box.end)
                icc = next(filter(None, (_profile(data, part) for part in parts)), b"")
            elif box.type == b"jp2c":
                start = box.body
                break
    if start < 0 or not data.startswith(_CODESTREAM, start) or len(data) < start + 42:
        raise ValueError("the JPEG 2000 file has no image")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(
        ">8IH", data, start + 8
    )
    if not (tile_width and tile_height and left < right and top < bottom and tile_left <= left and tile_top <= top):
        raise ValueError("the size of the JPEG 2000 file is invalid")
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles > _MAX_TILES:
        raise StructureLimitError(f"The JPEG 2000 file has {tiles} tiles, above the limit of {_MAX_TILES}")
    if components > _MAX_COMPONENTS:
        raise StructureLimitError(
            f"The JPEG 2000 file has {components} components, above the limit of {_MAX_COMPONENTS}"
        )
    depths = data[start + 42 : start + 42 + 3 * components : 3]
    if any((depth & 0x7F) + 1 > _MAX_BITS for depth in depths):
        raise StructureLimitError(f"The JPEG 2000 file has more than {_MAX_BITS} bits per component")
    if min(_code_blocks(data, start + 2), default=_MIN_CODE_BLOCK) < _MIN_CODE_BLOCK:
        raise StructureLimitError(f"The JPEG 2000 file has code-blocks of less than {_MIN_CODE_BLOCK} pixels")
    return StrippedFile(
        data=data,
        size=(right - left, bottom - top),
        icc=icc,
        decoder="JPEG2000",
        slow=True,
        max_pixels=_MAX_PIXELS,
    )


def _code_blocks(data: bytes, position: int) -> Iterator[int]:
    """Yield the pixels of a code-block, for each main or tile header that says so, and each resolution in it."""
    end_of_tile = coding_segments = 0
    for _ in range(_MAX_SEGMENTS):
        if position + 12 > len(data):
            return
        marker, length, _, size = struct.unpack_from(">HHHI", data, position)
        if marker == _TILE_DATA:
            if end_of_tile <= position:  # the last one
                return
            position = end_of_tile
            continue
        if marker == _TILE:
            end_of_tile = position + size
        elif marker in _CODING:
            coding_segments += 1
            if coding_segments > _MAX_CODING_SEGMENTS:
                raise StructureLimitError(
                    f"The JPEG 2000 file has more than {_MAX_CODING_SEGMENTS} descriptions of its coding"
                )
            style, blocks = (position + 4 + place for place in _CODING[marker])
            width, height = (exponent + 2 for exponent in data[blocks : blocks + 2])
            # Precincts divide code-blocks, except at the lowest resolution into four each.
            last = min(position + 2 + length, blocks + 4 + _MAX_RESOLUTIONS)
            sizes = data[blocks + 4 : last] if data[style] & 1 else b"\xff"
            yield from (
                1 << max(0, min(width, (both & 15) - 1)) + max(0, min(height, (both >> 4) - 1)) for both in sizes
            )
        position += 2 + max(2, length)
    raise StructureLimitError(f"The JPEG 2000 file has more than {_MAX_SEGMENTS} header segments")


def _profile(data: bytes, box: Box) -> bytes:
    if box.type == b"colr" and data[box.body : box.body + 1] == b"\x02":
        return data[box.body + 3 : min(box.end, box.body + 4 + MAX_PROFILE_BYTES)]
    return b""
