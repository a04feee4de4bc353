"""GIF: the first frame without comments."""

import re
import struct
from typing import Final

from hardrank.models.image_files.limits import FEW_PARTS
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError, search_near

GIF_BLOCK: Final = re.compile(rb"[\x21\x2c\x3b]")
"""The first byte of an extension, an image, or the end."""
MAX_GIF_BLOCKS: Final = 100_000
_EXTENSION, _CONTROL, _IMAGE = 0x21, 0xF9, 0x2C


def strip_gif(data: bytes) -> StrippedFile:
    """Keep the header and the first frame; raises `StructureLimitError` for too many blocks before it."""
    if len(data) < 13:
        return StrippedFile(data=data)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    kept = [data[:position]]
    blocks = 0
    while (match := search_near(GIF_BLOCK, data, position)) and match[0][0] == _EXTENSION:
        start = match.start()
        position = start + 2
        while position < len(data) and data[position] and blocks < MAX_GIF_BLOCKS:
            position += data[position] + 1
            blocks += 1
        position += 1
        blocks += 1
        if blocks > MAX_GIF_BLOCKS:
            raise StructureLimitError(f"The GIF has more than {MAX_GIF_BLOCKS} blocks before its first frame")
        if data[start + 1 : start + 2] == bytes([_CONTROL]):
            kept.append(data[start:position])
    if match is None:
        return StrippedFile(data=b"".join(kept), size=(width, height))
    if match[0][0] == _IMAGE and len(data) >= match.start() + 9:
        left, top, right, bottom = struct.unpack_from("<4H", data, match.start() + 1)
        width, height = max(width, left + right), max(height, top + bottom)
    slow = blocks > FEW_PARTS
    return StrippedFile(data=b"".join([*kept, data[match.start() :]]), size=(width, height), slow=slow)
