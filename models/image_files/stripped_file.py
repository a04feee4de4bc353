"""What is known of an image file before it is decoded."""

import re
from dataclasses import dataclass
from typing import Final

MAX_GAP: Final = 2**16
"""Most bytes without meaning between two parts of a file."""


class StructureLimitError(ValueError):
    """The structure of a file would make decoding it too expensive."""


def search_near(pattern: re.Pattern[bytes], data: bytes, start: int) -> re.Match[bytes] | None:
    """Find where the next part begins; raises `StructureLimitError` if it is far: other threads wait for the search."""
    found = pattern.search(data, start, start + MAX_GAP)
    if found is None and start + MAX_GAP < len(data):
        raise StructureLimitError(f"The file has more than {MAX_GAP} bytes between two of its parts")
    return found


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
