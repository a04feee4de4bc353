"""AVIF and HEIC: sizes and numbers of parts are read from their boxes.

Metadata and movies are hidden from the decoder by changing their type.
"""

import struct
from typing import Final

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.image_files.boxes import Box, read_boxes
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

_MAX_ITEMS: Final = 1000
"""Tiles, thumbnails and metadata of an image; a photograph of a telephone has a few hundred."""
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_HEIC_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_CONTAINER_BRANDS: Final = {b"mif1", b"msf1", b"mif2"}
_HIDDEN_ITEMS: Final = {b"Exif", b"mime", b"uri "}
_HIDDEN: Final = b"skip"


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
    for box in read_boxes(data, 0, len(data)):
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


def _read_properties(data: bytes, meta: Box) -> tuple[list[tuple[int, int]], bytes]:
    """Return the sizes of all images of a file, and its ICC profile."""
    sizes: list[tuple[int, int]] = []
    icc = b""
    for group in read_boxes(data, meta.body + 4, meta.end):
        if group.type != b"iprp":
            continue
        for container in read_boxes(data, group.body, group.end):
            if container.type != b"ipco":
                continue
            for part in read_boxes(data, container.body, container.end):
                if part.type == b"ispe" and part.end >= part.body + 12:
                    sizes.append(struct.unpack_from(">II", data, part.body + 4))
                elif part.type == b"colr" and not icc and data[part.body : part.body + 4] in {b"prof", b"rICC"}:
                    icc = data[part.body + 4 : min(part.end, part.body + 5 + MAX_PROFILE_BYTES)]
    return sizes, icc


def _hidden_items(data: bytes, meta: Box) -> list[int]:
    """Return where the types of metadata items are."""
    places: list[int] = []
    items = 0
    for box in read_boxes(data, meta.body + 4, meta.end):
        if box.type != b"iinf" or box.end < box.body + 8:
            continue
        # A version above 0 counts items with four bytes instead of two.
        for entry in read_boxes(data, box.body + (8 if data[box.body] else 6), box.end):
            items += 1
            if items > _MAX_ITEMS:
                raise StructureLimitError(f"The image has more than {_MAX_ITEMS} parts")
            place = entry.body + 4 + (4 if data[entry.body : entry.body + 1] == b"\x03" else 2) + 2
            if place + 4 <= entry.end and data[place : place + 4] in _HIDDEN_ITEMS:
                places.append(place)
    return places
