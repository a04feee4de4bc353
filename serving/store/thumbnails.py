"""Thumbnails of indexed images."""

import io
from typing import Final

from PIL import Image

THUMBNAIL_SIDE: Final = 96
"""Maximum length of the longer side, in pixels."""


def make_thumbnail(image: Image.Image, side: int = THUMBNAIL_SIDE) -> bytes:
    """Return a PNG of a decoded RGB image, shrunk to at most `side` pixels a side with its aspect ratio."""
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    # Reduce by a whole factor first: filtering a large photograph at full size is slow.
    small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
