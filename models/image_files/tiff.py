"""TIFF: a directory with only the needed tags."""

import struct
from collections.abc import Mapping
from typing import Final

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError
from hardrank.models.image_files.tiff_directory import Tag, read_directory
from hardrank.models.image_files.tiff_layout import LONGEST_ARRAY, TiffLayout

_TABLES, _XMP, _ICC = 347, 700, 34675
_KEPT: Mapping[int, int] = {
    **dict.fromkeys((254, 255, 256, 257, 259, 262, 266, 274, 277, 278, 284, 292, 293, 317, 322, 323, 332, 531), 1),
    **dict.fromkeys((258, 338, 339), 16),
    **dict.fromkeys((529, 530, 532), 16),
    **dict.fromkeys((273, 279, 324, 325), LONGEST_ARRAY),
    320: 3 * 65_536,
    **dict.fromkeys((_TABLES, _XMP), 2**32),
}
"""The tags on which pixels depend (XMP may have the orientation), and how many values they may have at most."""
_BYTE_TYPES: Final = {1, 7}


def strip_tiff(data: bytes) -> StrippedFile:
    """Append a directory with only the needed tags: libtiff prints a warning for each unknown one.

    Raises `StructureLimitError` for too many strips, tiles or values, `ValueError` for a malformed file.
    """
    endian = "<" if data.startswith(b"II") else ">"
    if len(data) < 8:
        raise ValueError("the TIFF header is truncated")
    tags: dict[int, Tag] = {}
    icc = b""
    total = 0
    for tag in read_directory(data, struct.unpack_from(f"{endian}I", data, 4)[0], endian):
        total += tag.size
        if total > len(data):
            raise ValueError("the tags of the TIFF claim more bytes than the file has")
        if tag.number in _KEPT and not (tag.number in (_TABLES, _XMP) and tag.kind not in _BYTE_TYPES):
            tags[tag.number] = tag
        elif tag.number == _ICC and tag.kind in _BYTE_TYPES and tag.size > 4:
            start = struct.unpack(f"{endian}I", tag.value)[0]
            icc = data[start : start + min(tag.size, MAX_PROFILE_BYTES + 1)]
    for tag in tags.values():
        if tag.count > _KEPT[tag.number]:
            raise StructureLimitError(
                f"The TIFF has {tag.count} values in tag {tag.number}, above the limit of {_KEPT[tag.number]}"
            )
    layout = TiffLayout(data, tags, endian)
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
