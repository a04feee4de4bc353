"""What is known of an image file before it is decoded."""

import re
from dataclasses import dataclass
from typing import Final

_STEP: Final = 2**18


class StructureLimitError(ValueError):
    """The structure of a file would make decoding it too expensive."""


def search(pattern: re.Pattern[bytes], data: bytes, start: int) -> re.Match[bytes] | None:
    """Find a pattern of one or two bytes, in steps: during a search other threads wait for the interpreter."""
    for begin in range(start, len(data), _STEP):
        if found := pattern.search(data, begin, begin + _STEP + 1):
            return found
    return None


@dataclass(frozen=True, kw_only=True)
class StrippedFile:
    """An image file without unneeded metadata, and what its headers say about decoding it."""

    data: bytes
    """The file to decode."""
    exif: bytes = b""
    """The EXIF of the file: a TIFF header and its directories."""
    scans: int = 1
    """Passes that a decoder makes over the image (progressive JPEG)."""
    size: tuple[int, int] | None = None
    """Width and height, if the decoder allocates memory for them when it opens the file."""
    icc: bytes = b""
    """The ICC profile of the file."""
    sequential: bool = False
    """Whether it is a JPEG that a decoder can reduce without holding all of it: baseline, in one scan."""
    buffer_bytes: int = 0
    """Bytes that the decoder holds besides the image: the largest strip or tile of a TIFF."""
    decoder: str = ""
    """Pillow's name of the only decoder for the file; empty: any of those that recognize their files by signature."""
    slow: bool = False
    """Whether decoding it keeps the Python interpreter busy, so that other threads wait."""
    max_pixels: int | None = None
    """Limit of pixels of this format, for slow decoders."""
