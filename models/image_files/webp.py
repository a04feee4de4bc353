"""WebP: the chunks of the first frame."""

import struct
from typing import Final

from hardrank.models.image_files.limits import most_chunks
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

_KEPT: Final = {b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L"}
_IMAGE: Final = {b"ANMF", b"VP8 ", b"VP8L"}
_METADATA_FLAGS: Final = 0x20 | 0x08 | 0x04
"""ICC profile, EXIF, XMP."""


def strip_webp(data: bytes) -> StrippedFile:
    """Keep the chunks that pixels depend on; raises `StructureLimitError` for too many chunks."""
    kept: list[bytes] = []
    exif, icc, size, position, complete = b"", b"", None, 12, False
    most = most_chunks(data)
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
            chunk = chunk[:8] + bytes([chunk[8] & ~_METADATA_FLAGS]) + chunk[9:]
        if not complete and (kind in _KEPT or kind == b"ANMF"):
            kept.append(chunk)
        complete = complete or kind in _IMAGE
        position = end
    else:
        raise StructureLimitError(f"The WebP has more than {most} chunks")
    body = b"WEBP" + b"".join(kept)
    return StrippedFile(data=b"RIFF" + struct.pack("<I", len(body)) + body, exif=exif, icc=icc, size=size)
