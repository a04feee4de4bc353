"""Small pictures of indexed images."""

import io
from typing import Final

from PIL import Image

THUMBNAIL_SIDE: Final = 96
"""Pixels of the longer side, at most."""


def make_thumbnail(image: Image.Image) -> bytes:
    """Shrink a decoded RGB image to at most 96 px a side, aspect ratio kept, as the bytes of a PNG."""
    scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Reduced in whole steps first: averaging a photograph once is cheap, filtering it at full size is not.
    small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
