"""Strip image files of metadata that is slow or dangerous to parse, before they are decoded.

Metadata parsers are the weakest part of a decoder: GIF comments are collected in quadratic time, and all tags of a TIFF
(or of EXIF, which is a TIFF inside other files) may point at the same megabytes. Nothing here decodes pixels, and the
time is linear in the length of the file. Malformed files raise `ValueError` or are passed on to the decoder.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_MAX_SEGMENTS = 10_000
_EXIF_PREFIX = b"Exif\x00\x00"

# A JPEG marker other than a stuffed byte, a restart marker or fill.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_END, _JPEG_SCAN, _JPEG_APP1 = 0xD9, 0xDA, 0xE1
# APP0 (JFIF) and APP14 (Adobe) say how colours are stored; the other application segments and comments do not.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
# Start, end and reserved markers have no length after them.
_JPEG_BARE = {0xC8, 0xD8, 0xD9, *range(0xF0, 0xFE)}

_GIF_EXTENSION, _GIF_CONTROL, _GIF_IMAGE, _GIF_END = 0x21, 0xF9, 0x2C, 0x3B

_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_ORIENTATION = 0x0112
# EXIF, GPS and interoperability directories, which decoders follow.
_TIFF_POINTERS = {0x8769, 0x8825, 0xA005}
_TIFF_ENDIAN = {b"II*\x00": "<", b"MM\x00*": ">"}


@dataclass(frozen=True, kw_only=True)
class StrippedFile:
    """An image file without unneeded metadata."""

    data: bytes
    """The file to decode."""
    exif: bytes = b""
    """The EXIF of the file: a TIFF header and its directories."""
    scans: int = 1
    """Passes that a decoder makes over the image (progressive JPEG)."""


def strip_metadata(data: bytes) -> StrippedFile:
    """Drop the metadata of a JPEG or GIF, check the tags of a TIFF; other files are returned unchanged.

    Raises `ValueError` for a malicious structure.
    """
    for signature, strip in _STRIPPERS.items():
        if data.startswith(signature):
            return strip(data)
    return StrippedFile(data=data)


def orientation(exif: bytes) -> int:
    """Return the orientation 1 … 8 in EXIF bytes; 1 if it is missing or the EXIF is damaged."""
    exif = exif.removeprefix(_EXIF_PREFIX)
    endian = _TIFF_ENDIAN.get(exif[:4])
    if endian is None or len(exif) < 8:
        return 1
    for tag in _directory(exif, struct.unpack_from(f"{endian}I", exif, 4)[0], endian):
        if tag.number == _TIFF_ORIENTATION and tag.size == 2:
            value: int = struct.unpack(f"{endian}H", tag.value[:2])[0]
            return value if 1 <= value <= 8 else 1
    return 1


def _strip_jpeg(data: bytes) -> StrippedFile:
    kept: list[bytes] = []
    exif, scans, segments, kept_from, position = b"", 0, 0, 0, 2
    while match := _JPEG_MARKER.search(data, position):
        marker = data[match.start() + 1]
        if marker == _JPEG_END and scans:
            break
        scans += marker == _JPEG_SCAN
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise ValueError(f"more than {_MAX_SEGMENTS} segments")
        body = match.end() + 2
        position = match.end()
        if marker not in _JPEG_BARE:
            position += max(2, int.from_bytes(data[match.end() : body], "big"))
        if marker in _JPEG_METADATA:
            kept.append(data[kept_from : match.start()])
            kept_from = position
            if marker == _JPEG_APP1 and not exif and data.startswith(_EXIF_PREFIX, body):
                exif = data[body:position]
    kept.append(data[kept_from:])
    return StrippedFile(data=b"".join(kept), exif=exif, scans=scans)


def _strip_gif(data: bytes) -> StrippedFile:
    if len(data) < 13:
        return StrippedFile(data=data)
    flags = data[10]
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    kept = [data[:position]]
    while position < len(data) and data[position] not in (_GIF_IMAGE, _GIF_END):
        start = position
        position += 1
        if data[start] != _GIF_EXTENSION:
            continue
        position = _after_sub_blocks(data, start + 2)
        if data[start + 1 : start + 2] == bytes([_GIF_CONTROL]):
            kept.append(data[start:position])
    return StrippedFile(data=b"".join([*kept, data[position:]]))


def _after_sub_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += data[position] + 1
    return position + 1


def _check_tiff(data: bytes) -> StrippedFile:
    endian = _TIFF_ENDIAN[data[:4]]
    if len(data) < 8:
        raise ValueError("the TIFF header is truncated")
    pending, seen, total = [struct.unpack_from(f"{endian}I", data, 4)[0]], set[int](), 0
    while pending:
        offset = pending.pop()
        if offset in seen:
            continue
        seen.add(offset)
        for tag in _directory(data, offset, endian):
            total += tag.size
            if total > len(data):
                raise ValueError("the tags of the TIFF claim more bytes than the file has")
            if tag.number in _TIFF_POINTERS and tag.size == 4:
                pending.append(struct.unpack(f"{endian}I", tag.value)[0])
    return StrippedFile(data=data)


def _refuse_big_tiff(data: bytes) -> StrippedFile:
    raise ValueError("BigTIFF is not supported, only classic TIFF")


@dataclass(frozen=True, kw_only=True)
class _Tag:
    number: int
    size: int
    """Size of its values, bytes."""
    value: bytes
    """The last four bytes of the entry: the values if they fit, else their offset."""


def _directory(data: bytes, offset: int, endian: str) -> Iterator[_Tag]:
    """Yield the entries of a TIFF directory, up to the end of the data."""
    if offset + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{endian}H", data, offset)
    for start in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        number, kind, length, value = struct.unpack_from(f"{endian}HHI4s", data, start)
        yield _Tag(number=number, size=_TIFF_TYPE_BYTES.get(kind, 1) * length, value=value)


_STRIPPERS: Mapping[bytes, Callable[[bytes], StrippedFile]] = {
    b"\xff\xd8": _strip_jpeg,
    b"GIF8": _strip_gif,
    b"II*\x00": _check_tiff,
    b"MM\x00*": _check_tiff,
    b"II+\x00": _refuse_big_tiff,
    b"MM\x00+": _refuse_big_tiff,
}
