"""Small previews of images, as PNG."""

import numpy as np
from PIL import Image

from hardrank.audit_app.drawing.markup import png_uri
from hardrank.audit_app.images.exact_png import Uint8Image, encode_png


def thumbnail_uri(pixels: Uint8Image, side: int) -> str:
    """Return an image (3,H,W) as a PNG `data:` URI, shrunk to `side` pixels if it is larger; else its exact pixels."""
    if max(pixels.shape[1:]) > side:
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    return png_uri(encode_png(pixels))
