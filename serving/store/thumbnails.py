"""Thumbnails of indexed images."""

import io
import zlib
from typing import Final

from PIL import Image

THUMBNAIL_SIDE: Final = 96
"""Maximum length of the longer side, in pixels."""


def make_thumbnail(image: Image.Image, side: int = THUMBNAIL_SIDE) -> bytes:
    """Return a PNG of a decoded RGB image, shrunk to at most `side` pixels a side with its aspect ratio."""
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    # Reduce by a whole factor first: filtering a photograph at full size is slow.
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=1.5)
    stream = io.BytesIO()
    # Searching for repetitions takes most of the time of an encoder and shrinks a photograph by some percent.
    small.save(stream, format="PNG", compress_type=zlib.Z_RLE)
    return stream.getvalue()
