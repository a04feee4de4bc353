"""AVIF and HEIC: sizes and numbers of parts are read from their boxes, those of AVIF also from their data.

Metadata and movies are hidden from the decoder by changing their type.
"""

import struct
from collections.abc import Set
from typing import Final

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.image_files.av1 import largest_frame
from hardrank.models.image_files.boxes import Box, BoxReader
from hardrank.models.image_files.media_items import read_item_data, read_items
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

_AVIF_BRANDS: Final = {b"avif", b"avis"}
_HEIC_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_CONTAINER_BRANDS: Final = {b"mif1", b"msf1", b"mif2"}
_HIDDEN_ITEMS: Final = {b"Exif", b"mime", b"uri "}
_HIDDEN: Final = b"skip"
_MAX_BRANDS_BYTES: Final = 4096
"""Of the box that names the formats; others have about 30."""


def media_decoder(data: bytes) -> str | None:
    """Return Pillow's name of the decoder of an AVIF or HEIC file; None for other files."""
    if data[4:8] != b"ftyp":
        return None
    body = data[8 : min(len(data), int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES)]
    brands = {body[:4], *(body[place : place + 4] for place in range(8, len(body) - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIC_BRANDS or body[:4] in _CONTAINER_BRANDS else None


def strip_media_file(data: bytes) -> StrippedFile:
    """Hide the metadata and the movie of an AVIF or HEIC file; raises `StructureLimitError` for too many parts.

    Its orientation is a property of the image, not of its EXIF.
    """
    decoder = media_decoder(data) or ""
    changed = bytearray(data)
    sizes: list[tuple[int, int]] = []
    icc = b""
    described = False
    boxes = BoxReader(data)
    for box in boxes.read(0, len(data)):
        if box.type == b"ftyp":
            if box.end - box.start > _MAX_BRANDS_BYTES:
                raise StructureLimitError("The image names too many formats")
            for place in (box.body, *range(box.body + 8, box.end - 3, 4)):
                # Files of these brands must have a movie.
                if data[place : place + 4] == b"avis":
                    changed[place : place + 4] = b"avif"
        elif box.type == b"moov":
            changed[box.start + 4 : box.start + 8] = _HIDDEN
        elif box.type == b"meta":
            if described:  # each of many could have the whole file as its data
                raise StructureLimitError("The image has more than one description")
            described = True
            sizes, icc = _read_properties(boxes, box)
            items = read_items(boxes, box)
            for item in items:
                if item.type in _HIDDEN_ITEMS:
                    changed[item.place : item.place + 4] = _HIDDEN
            if decoder == "AVIF":  # libheif compares the sizes itself
                sizes += _frame_sizes(boxes, box, {item.id for item in items if item.type == b"av01"})
    size = max(sizes, key=lambda size: size[0] * size[1], default=None)
    return StrippedFile(data=bytes(changed), size=size, icc=icc, decoder=decoder, slow=True)


def _frame_sizes(boxes: BoxReader, meta: Box, images: Set[int]) -> list[tuple[int, int]]:
    """Return the sizes of the frames that AV1 decodes, which may be larger than those that the boxes tell."""
    found = [largest_frame(part) for id, part in read_item_data(boxes, meta).items() if id in images]
    return [size for size in found if size is not None]


def _read_properties(boxes: BoxReader, meta: Box) -> tuple[list[tuple[int, int]], bytes]:
    """Return the sizes of all images of a file, and its ICC profile."""
    data, sizes, icc = boxes.data, list[tuple[int, int]](), b""
    for group in boxes.read(meta.body + 4, meta.end):
        if group.type != b"iprp":
            continue
        for container in boxes.read(group.body, group.end):
            if container.type != b"ipco":
                continue
            for part in boxes.read(container.body, container.end):
                if part.type == b"ispe" and part.end >= part.body + 12:
                    sizes.append(struct.unpack_from(">II", data, part.body + 4))
                elif part.type == b"colr" and not icc and data[part.body : part.body + 4] in {b"prof", b"rICC"}:
                    icc = data[part.body + 4 : min(part.end, part.body + 5 + MAX_PROFILE_BYTES)]
    return sizes, icc
