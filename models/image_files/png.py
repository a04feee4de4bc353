"""PNG: the chunks of the first frame."""

import struct
import zlib
from contextlib import suppress
from typing import Final

from hardrank.models.color_profiles import MAX_PROFILE_BYTES
from hardrank.models.image_files.limits import FEW_PARTS, most_chunks
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_KEPT: Final = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def strip_png(data: bytes) -> StrippedFile:
    """Keep the chunks that pixels depend on; raises `StructureLimitError` for too many chunks."""
    kept, exif, position, chunks = [PNG_SIGNATURE], b"", len(PNG_SIGNATURE), 0
    icc: bytes | None = None
    most = most_chunks(data)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        chunks += 1
        if chunks > most:
            raise StructureLimitError(f"The PNG has more than {most} chunks")
        if kind in _KEPT:
            kept.append(data[position:end])
        elif kind == b"eXIf":
            exif = data[position + 8 : end - 4]
        elif kind == b"iCCP":
            # The first one, even if it is damaged: decompressing each could take minutes.
            icc = _profile(data[position + 8 : end - 4]) if icc is None else icc
        if kind == b"IEND":
            break
        position = end
    return StrippedFile(data=b"".join(kept), exif=exif, icc=icc or b"", slow=chunks > FEW_PARTS)


def _profile(chunk: bytes) -> bytes:
    """Decompress a profile, but never more than one may have."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(chunk[chunk.find(b"\0") + 2 :], MAX_PROFILE_BYTES + 1)
    return b""
