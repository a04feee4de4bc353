"""Check AVIF, HEIC and JPEG 2000 files, which are made of boxes, before a decoder sees them.

A box has a length, a type of four letters, and a body that may be boxes again. Sizes and numbers of parts are read from
them; metadata and movies are hidden from the decoder by changing their type. Nothing here decodes pixels. Malformed
files raise `ValueError` or are passed on to the decoder.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.stripped_file import StrippedFile, StructureLimitError

_MAX_BOXES: Final = 10_000
_MAX_ITEMS: Final = 1000
"""Tiles, thumbnails and metadata of an image; a photograph of a telephone has a few hundred."""
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_HEIC_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_CONTAINER_BRANDS: Final = {b"mif1", b"msf1", b"mif2"}
_HIDDEN_ITEMS: Final = {b"Exif", b"mime", b"uri "}
_HIDDEN: Final = b"skip"

_JPEG2000_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_MAX_JPEG2000_PIXELS: Final = 25_000_000
"""Its decoder needs about a second for four million pixels."""
_MAX_JPEG2000_TILES: Final = 4096
_MAX_JPEG2000_SEGMENTS: Final = 50_000
_TILE: Final = 0xFF90
_TILE_DATA: Final = 0xFF93
_CODING: Final = {0xFF52: (0, 6), 0xFF53: (1, 3)}
"""Segments that say how pixels are coded: where they tell whether there are precincts, and the size of code-blocks."""
_MIN_CODE_BLOCK: Final = 256
"""Files have 1024 or more; code-blocks of 16 pixels take thirty times as long."""
_MAX_COMPONENTS: Final = 4
_MAX_BITS: Final = 16


@dataclass(frozen=True, kw_only=True)
class _Box:
    type: bytes
    start: int
    """Of the length, which comes first."""
    body: int
    end: int


def media_decoder(data: bytes) -> str | None:
    """Return Pillow's name of the decoder of an AVIF or HEIC file; None for other files."""
    if data[4:8] != b"ftyp":
        return None
    body = data[8 : min(len(data), int.from_bytes(data[:4], "big"), 4096)]
    brands = {body[:4], *(body[place : place + 4] for place in range(8, len(body) - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIC_BRANDS or body[:4] in _CONTAINER_BRANDS else None


def strip_media_file(data: bytes) -> StrippedFile:
    """Hide the metadata and the movie of an AVIF or HEIC file; raises `StructureLimitError` for too many parts.

    Its orientation is a property of the image, not of its EXIF.
    """
    changed = bytearray(data)
    size: tuple[int, int] | None = None
    icc = b""
    for box in _boxes(data, 0, len(data)):
        if box.type == b"ftyp":
            for place in (box.body, *range(box.body + 8, box.end - 3, 4)):
                # Files of these brands must have a movie.
                if data[place : place + 4] == b"avis":
                    changed[place : place + 4] = b"avif"
        elif box.type == b"moov":
            changed[box.start + 4 : box.start + 8] = _HIDDEN
        elif box.type == b"meta":
            sizes, icc = _read_properties(data, box)
            size = max(sizes, key=lambda size: size[0] * size[1], default=None)
            for place in _hidden_items(data, box):
                changed[place : place + 4] = _HIDDEN
    return StrippedFile(data=bytes(changed), size=size, icc=icc, decoder=media_decoder(data) or "", slow=True)


def is_jpeg2000(data: bytes) -> bool:
    """Return whether a file is a JPEG 2000 image."""
    return data.startswith((_JPEG2000_SIGNATURE, _CODESTREAM))


def check_jpeg2000(data: bytes) -> StrippedFile:
    """Read the size of a JPEG 2000 file; raises `StructureLimitError` for too many tiles or components."""
    start, icc = 0, b""
    if data.startswith(_JPEG2000_SIGNATURE):
        start = -1
        for box in _boxes(data, 0, len(data)):
            if box.type == b"jp2h":
                icc = next(filter(None, (_jp2_profile(data, part) for part in _boxes(data, box.body, box.end))), b"")
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
    if tiles > _MAX_JPEG2000_TILES:
        raise StructureLimitError(f"The JPEG 2000 file has {tiles} tiles, above the limit of {_MAX_JPEG2000_TILES}")
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
        max_pixels=_MAX_JPEG2000_PIXELS,
    )


def _code_blocks(data: bytes, position: int) -> Iterator[int]:
    """Yield the pixels of a code-block, for each main or tile header that says so, and each resolution in it."""
    end_of_tile = 0
    for _ in range(_MAX_JPEG2000_SEGMENTS):
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
            style, blocks = (position + 4 + place for place in _CODING[marker])
            width, height = (exponent + 2 for exponent in data[blocks : blocks + 2])
            # Precincts divide code-blocks, except at the lowest resolution into four each.
            sizes = data[blocks + 4 : position + 2 + length] if data[style] & 1 else b"\xff"
            yield from (
                1 << max(0, min(width, (both & 15) - 1)) + max(0, min(height, (both >> 4) - 1)) for both in sizes
            )
        position += 2 + max(2, length)
    raise StructureLimitError(f"The JPEG 2000 file has more than {_MAX_JPEG2000_SEGMENTS} header segments")


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, body)
            body = start + 16
        stop = end if length == 0 else min(end, start + length)
        if stop < body:
            raise ValueError(f"the length of the box {kind!r} is {length}")
        yield _Box(type=kind, start=start, body=body, end=stop)
        start = stop
    raise StructureLimitError(f"The file has more than {_MAX_BOXES} boxes")


def _read_properties(data: bytes, meta: _Box) -> tuple[list[tuple[int, int]], bytes]:
    """Return the sizes of all images of a file, and its ICC profile."""
    sizes: list[tuple[int, int]] = []
    icc = b""
    for group in _boxes(data, meta.body + 4, meta.end):
        if group.type != b"iprp":
            continue
        for container in _boxes(data, group.body, group.end):
            if container.type != b"ipco":
                continue
            for part in _boxes(data, container.body, container.end):
                if part.type == b"ispe" and part.end >= part.body + 12:
                    sizes.append(struct.unpack_from(">II", data, part.body + 4))
                elif part.type == b"colr" and not icc and data[part.body : part.body + 4] in {b"prof", b"rICC"}:
                    icc = data[part.body + 4 : min(part.end, part.body + 5 + MAX_PROFILE_BYTES)]
    return sizes, icc


def _hidden_items(data: bytes, meta: _Box) -> list[int]:
    """Return where the types of metadata items are."""
    places: list[int] = []
    items = 0
    for box in _boxes(data, meta.body + 4, meta.end):
        if box.type != b"iinf" or box.end < box.body + 8:
            continue
        # A version above 0 counts items with four bytes instead of two.
        for entry in _boxes(data, box.body + (8 if data[box.body] else 6), box.end):
            items += 1
            if items > _MAX_ITEMS:
                raise StructureLimitError(f"The image has more than {_MAX_ITEMS} parts")
            place = entry.body + 4 + (4 if data[entry.body : entry.body + 1] == b"\x03" else 2) + 2
            if place + 4 <= entry.end and data[place : place + 4] in _HIDDEN_ITEMS:
                places.append(place)
    return places


def _jp2_profile(data: bytes, box: _Box) -> bytes:
    if box.type == b"colr" and data[box.body : box.body + 1] == b"\x02":
        return data[box.body + 3 : min(box.end, box.body + 4 + MAX_PROFILE_BYTES)]
    return b""
