"""Adversarial pixels as a PNG that preprocessing reads back without loss.

A network sees the center crop C × C of an image that was resized to R × R. A file of C × C pixels would be enlarged
first, which interpolates the perturbation away. So the pixels are placed on a canvas of R × R whose border comes from
the benign image: resizing R × R to R × R copies, and the center crop returns exactly the attacked pixels.
"""

import hashlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from hardrank.models.decoding import decode
from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing, center_crop, file_pixels, to_square

Uint8Image = npt.NDArray[np.uint8]
"""(3,H,W)."""


class ExactPngError(HardrankError):
    """Pixels that do not fit the preprocessing, or a PNG that does not return them."""


def canvas_of(data: bytes, pre: Preprocessing) -> Uint8Image:
    """Decode a file into the square (3,R,R) that its crop is taken from; raises `UndecodableImageError`."""
    return to_square(decode(data), pre)


def canvas_around(pixels: Uint8Image, pre: Preprocessing) -> Uint8Image:
    """Extend a crop (3,C,C) to a square (3,R,R) by repeating its edge, for images whose file is unavailable."""
    rest = pre.resize - pre.crop
    sides = (rest // 2, rest - rest // 2)
    return np.pad(pixels, ((0, 0), sides, sides), mode="edge")


def place_on_canvas(pixels: Uint8Image, canvas: Uint8Image, pre: Preprocessing) -> Uint8Image:
    """Return a copy of `canvas` (3,R,R) with `pixels` (3,C,C) in its center; raises `ExactPngError`."""
    if pixels.shape != (3, pre.crop, pre.crop) or canvas.shape != (3, pre.resize, pre.resize):
        raise ExactPngError(
            f"pixels {pixels.shape} and canvas {canvas.shape} do not fit a crop of {pre.crop} from {pre.resize} pixels"
        )
    whole = canvas.copy()
    center_crop(whole, pre.crop)[...] = pixels
    return whole


def encode_png(pixels: Uint8Image) -> bytes:
    """Encode (3,H,W) as an RGB PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, format="PNG")
    return file.getvalue()


def exact_png(pixels: Uint8Image, canvas: Uint8Image, pre: Preprocessing) -> bytes:
    """Encode attacked `pixels` (3,C,C) on the `canvas` (3,R,R) of the benign image.

    Raises:
        ExactPngError: Preprocessing the PNG would not return `pixels`.
    """
    data = encode_png(place_on_canvas(pixels, canvas, pre))
    if pixels_hash(file_pixels(data, pre)) != pixels_hash(pixels):
        raise ExactPngError("preprocessing the PNG does not return the attacked pixels; nothing was saved")
    return data


def pixels_hash(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> str:
    """SHA-256 of an array's bytes in C order, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
