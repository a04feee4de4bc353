"""BMP: run-length encoding, which Pillow decodes in Python."""

import struct
from typing import Final

from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

_MAX_RLE_STEPS: Final = 4_000_000
"""Pillow decodes run-length encoded files in one step per pixel or pair of bytes at most."""


def check_bmp(data: bytes) -> StrippedFile:
    """Pass a file on; raises `StructureLimitError` for a large run-length encoded one."""
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
