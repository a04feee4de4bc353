"""Reduce image files to what decoding needs, and refuse structures that are expensive to decode.

Metadata parsers are the weakest part of a decoder: GIF comments are collected in quadratic time, text in a PNG is
compressed, and all tags of a TIFF may point at the same megabytes. So only the first frame and what its pixels need
reaches the decoder, and what decoding will cost is known from the headers. Nothing here decodes pixels, and the
time is linear in the length of the file. Malformed files raise `ValueError` or are passed on to the decoder.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.image_boxes import check_jpeg2000, is_jpeg2000, media_decoder, strip_media_file
from hardrank.models.stripped_file import MAX_GAP, StrippedFile, StructureLimitError, search_near

_FEW_PARTS = 5000
"""Chunks, blocks or strips, each of which Pillow reads in Python; more of them take as long as an expensive image."""
_MAX_SEGMENTS = 10_000
_EXIF_PREFIX = b"Exif\x00\x00"

# A JPEG marker other than a stuffed byte, a restart marker or fill.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_END, _JPEG_SCAN, _JPEG_APP1, _JPEG_APP2 = 0xD9, 0xDA, 0xE1, 0xE2
_MAX_JPEG_HEADER = 2**16
"""Bytes of tables before the first scan, which Pillow reads in Python; files have a few hundred."""
_JPEG_BASELINE = {0xC0, 0xC1}
_ICC_PREFIX = b"ICC_PROFILE\x00"
# APP0 (JFIF) and APP14 (Adobe) say how colors are stored; the other application segments and comments do not.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
# Start, end and reserved markers have no length after them.
_JPEG_BARE = {0xC8, 0xD8, 0xD9, *range(0xF0, 0xFE)}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

_GIF_EXTENSION, _GIF_CONTROL, _GIF_IMAGE, _GIF_END = 0x21, 0xF9, 0x2C, 0x3B
_GIF_BLOCK = re.compile(rb"[\x21\x2c\x3b]")
_MAX_GIF_BLOCKS = 100_000

_WEBP_KEPT = {b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L"}
_WEBP_IMAGE = {b"ANMF", b"VP8 ", b"VP8L"}
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04
"""ICC profile, EXIF, XMP."""

_MAX_CHUNKS = 10_000
"""Of a PNG or WebP. The headers of all are read in Python, while other threads wait."""
_FREE_CHUNKS = 1000
"""Further ones need a KiB of the file each, so that a small upload cannot take as long as a large one."""

_MAX_RLE_STEPS = 4_000_000
"""Pillow decodes run-length encoded BMP files in Python, in one step per pixel or pair of bytes at most."""

_MAX_TAGS = 1000
"""Entries of a TIFF or EXIF directory; files have a few dozen."""
_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_SHORT, _TIFF_LONG = 3, 4
_TIFF_ORIENTATION = 0x0112
_TIFF_ENDIAN = {b"II*\x00": "<", b"MM\x00*": ">"}
_TIFF_LONGEST_ARRAY = 65_536
"""Most strips or tiles: one per row of the tallest image and plane, or tiles of 32×32 for the largest image."""
_TIFF_LARGEST_TILE = 2048
"""Pixels a side, for an image that is smaller."""
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_COMPRESSION, _TIFF_SAMPLES, _TIFF_PLANAR = 256, 257, 258, 259, 277, 284
_TIFF_STRIP_OFFSETS, _TIFF_ROWS_PER_STRIP, _TIFF_STRIP_SIZES = 273, 278, 279
_TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT, _TIFF_TILE_OFFSETS, _TIFF_TILE_SIZES = 322, 323, 324, 325
_TIFF_TABLES, _TIFF_XMP, _TIFF_ICC = 347, 700, 34675
_TIFF_KEPT: Mapping[int, int] = {
    **dict.fromkeys((254, 255, 256, 257, 259, 262, 266, 274, 277, 278, 284, 292, 293, 317, 322, 323, 332, 531), 1),
    **dict.fromkeys((258, 338, 339), 16),
    **dict.fromkeys((529, 530, 532), 16),
    **dict.fromkeys((273, 279, 324, 325), _TIFF_LONGEST_ARRAY),
    320: 3 * 65_536,
    **dict.fromkeys((_TIFF_TABLES, _TIFF_XMP), 2**32),
}
"""The tags on which pixels depend (XMP may have the orientation), and how many values they may have at most."""
_TIFF_BYTE_TYPES = {1, 7}
_TIFF_JPEG = 7
_TIFF_UNCOMPRESSED = {1, 32771}
_TIFF_COMPRESSIONS: Mapping[int, str] = {
    1: "none",
    2: "CCITT RLE",
    3: "CCITT group 3",
    4: "CCITT group 4",
    5: "LZW",
    _TIFF_JPEG: "JPEG",
    8: "Deflate",
    32771: "none, 16-bit words",
    32773: "PackBits",
    32946: "Deflate",
    50000: "Zstandard",
    50001: "WebP",
}
"""Not old-style JPEG and LZMA, whose decoders take memory that no header limits, nor formats of single vendors."""


def strip_metadata(data: bytes) -> StrippedFile:
    """Keep what decoding the first frame needs.

    Raises `StructureLimitError` for a structure that is expensive to decode, `ValueError` for another malformed one.
    """
    for signature, strip in _STRIPPERS.items():
        if data.startswith(signature):
            return strip(data)
    if media_decoder(data) is not None:
        return strip_media_file(data)
    if is_jpeg2000(data):
        return check_jpeg2000(data)
    return StrippedFile(data=data)


def orientation(exif: bytes) -> int:
    """Return the orientation 1 … 8 in EXIF bytes; 1 if it is missing or the EXIF is damaged."""
    exif = exif.removeprefix(_EXIF_PREFIX)
    endian = _TIFF_ENDIAN.get(exif[:4])
    if endian is None or len(exif) < 8:
        return 1
    with suppress(StructureLimitError):
        for tag in _directory(exif, struct.unpack_from(f"{endian}I", exif, 4)[0], endian):
            if tag.number == _TIFF_ORIENTATION and tag.size == 2:
                value: int = struct.unpack(f"{endian}H", tag.value[:2])[0]
                return value if 1 <= value <= 8 else 1
    return 1


def _strip_jpeg(data: bytes) -> StrippedFile:
    # Pillow reads everything before the first scan byte by byte: only whole segments are kept of it.
    kept = [data[:2]]
    exif, scans, segments, header, kept_from, position = b"", 0, 0, 0, len(data), 2
    profile: dict[int, bytes] = {}
    baseline = False
    if data.count(b"\xff") > max(MAX_GAP, len(data) // 8):
        raise StructureLimitError("The JPEG consists of fill bytes for the most part")
    while match := _JPEG_MARKER.search(data, position) if scans else search_near(_JPEG_MARKER, data, position):
        marker = data[match.start() + 1]
        if marker == _JPEG_END and scans:
            break
        scans += marker == _JPEG_SCAN
        baseline = baseline or marker in _JPEG_BASELINE
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise StructureLimitError(f"The JPEG has more than {_MAX_SEGMENTS} segments")
        body = match.end() + 2
        position = match.end()
        if marker not in _JPEG_BARE:
            position += max(2, int.from_bytes(data[match.end() : body], "big"))
        if scans == 1 and marker == _JPEG_SCAN:
            kept_from = match.start()
        elif not scans and marker not in _JPEG_METADATA:
            kept.append(data[match.start() : position])
            header += position - match.start()
        if marker in _JPEG_METADATA:
            if scans:
                kept.append(data[kept_from : match.start()])
                kept_from = position
            if marker == _JPEG_APP1 and not exif and data.startswith(_EXIF_PREFIX, body):
                exif = data[body:position]
            elif marker == _JPEG_APP2 and data.startswith(_ICC_PREFIX, body):
                part = data[body + len(_ICC_PREFIX) : position]
                profile.setdefault(part[0] if part else 0, part[2:])
    kept.append(data[kept_from:])
    icc = b"".join(profile[number] for number in sorted(profile))
    return StrippedFile(
        data=b"".join(kept),
        exif=exif,
        icc=icc,
        scans=scans,
        sequential=baseline and scans == 1,
        slow=header > _MAX_JPEG_HEADER,
    )


def _strip_png(data: bytes) -> StrippedFile:
    kept, exif, position, chunks = [_PNG_SIGNATURE], b"", len(_PNG_SIGNATURE), 0
    icc: bytes | None = None
    most = _most_chunks(data)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        chunks += 1
        if chunks > most:
            raise StructureLimitError(f"The PNG has more than {most} chunks")
        if kind in _PNG_KEPT:
            kept.append(data[position:end])
        elif kind == b"eXIf":
            exif = data[position + 8 : end - 4]
        elif kind == b"iCCP":
            # The first one, even if it is damaged: decompressing each could take minutes.
            icc = _png_profile(data[position + 8 : end - 4]) if icc is None else icc
        if kind == b"IEND":
            break
        position = end
    return StrippedFile(data=b"".join(kept), exif=exif, icc=icc or b"", slow=chunks > _FEW_PARTS)


def _most_chunks(data: bytes) -> int:
    return min(_MAX_CHUNKS, _FREE_CHUNKS + len(data) // 1024)


def _png_profile(chunk: bytes) -> bytes:
    """Decompress a profile, but never more than one may have."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(chunk[chunk.find(b"\0") + 2 :], MAX_PROFILE_BYTES + 1)
    return b""


def _strip_gif(data: bytes) -> StrippedFile:
    if len(data) < 13:
        return StrippedFile(data=data)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    kept = [data[:position]]
    blocks = 0
    while (match := search_near(_GIF_BLOCK, data, position)) and match[0][0] == _GIF_EXTENSION:
        start = match.start()
        position = start + 2
        while position < len(data) and data[position]:
            position += data[position] + 1
            blocks += 1
        position += 1
        blocks += 1
        if blocks > _MAX_GIF_BLOCKS:
            raise StructureLimitError(f"The GIF has more than {_MAX_GIF_BLOCKS} blocks before its first frame")
        if data[start + 1 : start + 2] == bytes([_GIF_CONTROL]):
            kept.append(data[start:position])
    if match is None:
        return StrippedFile(data=b"".join(kept), size=(width, height))
    if match[0][0] == _GIF_IMAGE and len(data) >= match.start() + 9:
        left, top, right, bottom = struct.unpack_from("<4H", data, match.start() + 1)
        width, height = max(width, left + right), max(height, top + bottom)
    slow = blocks > _FEW_PARTS
    return StrippedFile(data=b"".join([*kept, data[match.start() :]]), size=(width, height), slow=slow)


def _strip_webp(data: bytes) -> StrippedFile:
    kept: list[bytes] = []
    exif, icc, size, position, complete = b"", b"", None, 12, False
    most = _most_chunks(data)
    for _ in range(most):
        if position + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        chunk = data[position:end]
        if kind == b"EXIF":
            exif = exif or chunk[8 : 8 + length]
        elif kind == b"ICCP":
            icc = icc or chunk[8 : 8 + length]
        elif kind == b"VP8X" and size is None and len(chunk) >= 18:
            size = (1 + int.from_bytes(chunk[12:15], "little"), 1 + int.from_bytes(chunk[15:18], "little"))
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA_FLAGS]) + chunk[9:]
        if not complete and (kind in _WEBP_KEPT or kind == b"ANMF"):
            kept.append(chunk)
        complete = complete or kind in _WEBP_IMAGE
        position = end
    else:
        raise StructureLimitError(f"The WebP has more than {most} chunks")
    body = b"WEBP" + b"".join(kept)
    return StrippedFile(data=b"RIFF" + struct.pack("<I", len(body)) + body, exif=exif, icc=icc, size=size)


def _check_bmp(data: bytes) -> StrippedFile:
    if len(data) >= 34:
        header, width, height = struct.unpack_from("<Iii", data, 14)
        steps = abs(width * height) + len(data) // 2
        encoded = header >= 40 and data[30:34] in (b"\x01\0\0\0", b"\x02\0\0\0")
        if encoded and steps > _MAX_RLE_STEPS:
            raise StructureLimitError(
                f"The BMP of {abs(width)}×{abs(height)} pixels is run-length encoded, which is supported up to "
                f"{_MAX_RLE_STEPS} pixels and pairs of bytes"
            )
        return StrippedFile(data=data, slow=encoded)
    return StrippedFile(data=data)


def _strip_tiff(data: bytes) -> StrippedFile:
    """Append a directory with only the needed tags: libtiff prints a warning for each unknown one."""
    endian = "<" if data.startswith(b"II") else ">"
    if len(data) < 8:
        raise ValueError("the TIFF header is truncated")
    tags: dict[int, _Tag] = {}
    icc = b""
    total = 0
    for tag in _directory(data, struct.unpack_from(f"{endian}I", data, 4)[0], endian):
        total += tag.size
        if total > len(data):
            raise ValueError("the tags of the TIFF claim more bytes than the file has")
        if tag.number in _TIFF_KEPT and not (
            tag.number in (_TIFF_TABLES, _TIFF_XMP) and tag.kind not in _TIFF_BYTE_TYPES
        ):
            tags[tag.number] = tag
        elif tag.number == _TIFF_ICC and tag.kind in _TIFF_BYTE_TYPES and tag.size > 4:
            start = struct.unpack(f"{endian}I", tag.value)[0]
            icc = data[start : start + min(tag.size, MAX_PROFILE_BYTES + 1)]
    for tag in tags.values():
        if tag.count > _TIFF_KEPT[tag.number]:
            raise StructureLimitError(
                f"The TIFF has {tag.count} values in tag {tag.number}, above the limit of {_TIFF_KEPT[tag.number]}"
            )
    layout = _TiffLayout(data, tags, endian)
    padding = len(data) % 2
    header = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(f"{endian}I", len(data) + padding)
    entries = b"".join(
        struct.pack(f"{endian}HHI", tag.number, tag.kind, tag.count) + tag.value
        for tag in sorted(tags.values(), key=lambda tag: tag.number)
    )
    directory = struct.pack(f"{endian}H", len(tags)) + entries + bytes(4)
    return StrippedFile(
        data=b"".join([header, data[8:], bytes(padding), directory]),
        size=layout.size,
        icc=icc,
        scans=layout.scans(),
        buffer_bytes=layout.buffer_bytes,
        slow=layout.slow,
    )


def _refuse_big_tiff(data: bytes) -> StrippedFile:
    raise ValueError("BigTIFF is not supported, only classic TIFF")


@dataclass(frozen=True, kw_only=True)
class _Tag:
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
        return _TIFF_TYPE_BYTES.get(self.kind, 1) * self.count


def _directory(data: bytes, offset: int, endian: str) -> Iterator[_Tag]:
    """Yield the entries of a TIFF directory, up to the end of the data; raises `StructureLimitError` for too many."""
    if offset + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{endian}H", data, offset)
    if count > _MAX_TAGS:
        raise StructureLimitError(f"The directory has {count} tags, above the limit of {_MAX_TAGS}")
    for start in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        number, kind, length, value = struct.unpack_from(f"{endian}HHI4s", data, start)
        yield _Tag(number=number, kind=kind, count=length, value=value)


class _TiffLayout:
    """The size of a TIFF and how its pixels are cut into strips or tiles; raises `StructureLimitError`."""

    def __init__(self, data: bytes, tags: Mapping[int, _Tag], endian: str) -> None:
        self._data, self._tags, self._endian = data, tags, endian
        compression = self._number(_TIFF_COMPRESSION, 1)
        if compression not in _TIFF_COMPRESSIONS:
            raise ValueError(f"the TIFF compression {compression} is not supported; use LZW or Deflate")
        self._compression = compression
        width, height = self._number(_TIFF_WIDTH, 0), self._number(_TIFF_HEIGHT, 0)
        self.size = (width, height)
        if width < 1 or height < 1:
            return
        tiled = _TIFF_TILE_OFFSETS in tags or _TIFF_TILE_WIDTH in tags
        if tiled:
            piece = (self._number(_TIFF_TILE_WIDTH, 0), self._number(_TIFF_TILE_HEIGHT, 0))
            if min(piece) < 1:
                raise ValueError(f"the TIFF has tiles of {piece[0]}×{piece[1]} pixels")
            self._check_tile(piece)
        else:
            piece = (width, min(height, self._number(_TIFF_ROWS_PER_STRIP, height) or height))
        planar = self._number(_TIFF_PLANAR, 1) == 2
        samples = self._number(_TIFF_SAMPLES, 1)
        bits = self._numbers(_TIFF_BITS) or [1]
        pixel_bits = sum(bits) if len(bits) > 1 else bits[0] * samples
        self._pieces = -(-width // piece[0]) * -(-height // piece[1]) * (samples if planar else 1)
        self.buffer_bytes = piece[0] * piece[1] * pixel_bits // 8
        self._check_count(whole=piece == self.size and not planar)

    buffer_bytes = 0
    _pieces = 0

    @property
    def slow(self) -> bool:
        """Whether Pillow decodes many strips or tiles one by one, in Python."""
        return self._compression in _TIFF_UNCOMPRESSED and self._pieces > _FEW_PARTS

    def scans(self) -> int:
        """Return the largest number of JPEG scans in a strip or tile."""
        if self._compression != _TIFF_JPEG:
            return 1
        offsets = self._numbers(_TIFF_TILE_OFFSETS) or self._numbers(_TIFF_STRIP_OFFSETS)
        sizes = self._numbers(_TIFF_TILE_SIZES) or self._numbers(_TIFF_STRIP_SIZES)
        if len(sizes) != len(offsets) or sum(sizes) > len(self._data):
            raise ValueError("the JPEG strips or tiles of the TIFF claim more bytes than the file has")
        found = (
            self._data.count(b"\xff\xda", offset, offset + size) for offset, size in zip(offsets, sizes, strict=True)
        )
        return max(found, default=1)

    def _check_tile(self, tile: tuple[int, int]) -> None:
        for side, length in zip(tile, self.size, strict=True):
            if side > max(_TIFF_LARGEST_TILE, length + -length % 16):
                raise StructureLimitError(
                    f"The TIFF has tiles of {tile[0]}×{tile[1]} pixels, above the limit of {_TIFF_LARGEST_TILE} a side "
                    f"for an image of {self.size[0]}×{self.size[1]}"
                )

    def _check_count(self, *, whole: bool) -> None:
        tags = [self._tags[number] for number in (_TIFF_STRIP_OFFSETS, _TIFF_TILE_OFFSETS) if number in self._tags]
        most = max((tag.count for tag in tags), default=0)
        if self._pieces > _TIFF_LONGEST_ARRAY:
            raise StructureLimitError(
                f"The TIFF has {self._pieces} strips or tiles, above the limit of {_TIFF_LONGEST_ARRAY}"
            )
        # Pillow decodes every strip that is listed, except if each is the whole image.
        if self._compression in _TIFF_UNCOMPRESSED and most > self._pieces and not whole:
            raise ValueError(f"the TIFF has {most} strips or tiles, but its size needs {self._pieces}")

    def _number(self, tag: int, default: int) -> int:
        return next(iter(self._numbers(tag)), default)

    def _numbers(self, number: int) -> list[int]:
        tag = self._tags.get(number)
        if tag is None:
            return []
        if tag.kind not in (_TIFF_SHORT, _TIFF_LONG):
            raise ValueError(f"the tag {number} of the TIFF has the type {tag.kind}")
        data, start = (tag.value, 0)
        if tag.size > 4:
            data, start = self._data, struct.unpack(f"{self._endian}I", tag.value)[0]
        if start + tag.size > len(data):
            raise ValueError(f"the tag {number} of the TIFF lies beyond the end of the file")
        code = "H" if tag.kind == _TIFF_SHORT else "I"
        return list(struct.unpack_from(f"{self._endian}{tag.count}{code}", data, start))


_STRIPPERS: Mapping[bytes, Callable[[bytes], StrippedFile]] = {
    b"\xff\xd8": _strip_jpeg,
    _PNG_SIGNATURE: _strip_png,
    b"GIF8": _strip_gif,
    b"RIFF": _strip_webp,
    b"BM": _check_bmp,
    b"II*\x00": _strip_tiff,
    b"MM\x00*": _strip_tiff,
    # Pillow also reads TIFF files whose version number is in the wrong byte order.
    b"II\x00*": _strip_tiff,
    b"MM*\x00": _strip_tiff,
    b"II+\x00": _refuse_big_tiff,
    b"MM\x00+": _refuse_big_tiff,
}
