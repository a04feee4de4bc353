"""EXIF: a TIFF directory, of which the orientation is read."""

import struct
from contextlib import suppress
from typing import Final

from hardrank.models.image_files.stripped_file import StructureLimitError
from hardrank.models.image_files.tiff_directory import TIFF_ENDIAN, read_directory

EXIF_PREFIX: Final = b"Exif\x00\x00"
_ORIENTATION: Final = 0x0112


def orientation(exif: bytes) -> int:
    """Return the orientation 1 … 8 in EXIF bytes; 1 if it is missing or the EXIF is damaged."""
    exif = exif.removeprefix(EXIF_PREFIX)
    endian = TIFF_ENDIAN.get(exif[:4])
    if endian is None or len(exif) < 8:
        return 1
    with suppress(StructureLimitError):
        for tag in read_directory(exif, struct.unpack_from(f"{endian}I", exif, 4)[0], endian):
            if tag.number == _ORIENTATION and tag.size == 2:
                value: int = struct.unpack(f"{endian}H", tag.value[:2])[0]
                return value if 1 <= value <= 8 else 1
    return 1
