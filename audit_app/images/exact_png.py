"""Adversarial pixels as a PNG that loses nothing on its way through preprocessing.

A network sees the centre crop C × C of an image that was resized to R × R. A file of C × C pixels would be enlarged
first, and the perturbation in it interpolated away. So the pixels are laid into a canvas of R × R whose border is
that of the benign image: resizing R × R to R × R copies, and the centre crop gives back exactly the attacked pixels.
"""

import hashlib
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import (
    DEFAULT_LIMITS,
    DecodeLimits,
    Preprocessing,
    centre_crop,
    decode,
    file_pixels,
    to_square,
)

Pixels = npt.NDArray[np.uint8]
"""(3,H,W)."""


class ExactPngError(HardrankError):
    """Pixels that do not fit the preprocessing, or a PNG that does not give them back."""


def canvas_of(data: bytes, pre: Preprocessing, *, limits: DecodeLimits = DEFAULT_LIMITS) -> Pixels:
    """Decode a file into the square (3,R,R) that its crop is taken from; raises `UndecodableImageError`."""
    return to_square(decode(data, limits=limits), pre.resize)


def canvas_around(pixels: Pixels, pre: Preprocessing) -> Pixels:
    """Make a square (3,R,R) around a crop (3,C,C) whose own border is not known: its edge, continued."""
    rest = pre.resize - pre.crop
    sides = (rest // 2, rest - rest // 2)
    return np.pad(pixels, ((0, 0), sides, sides), mode="edge")


def lay_into(pixels: Pixels, canvas: Pixels, pre: Preprocessing) -> Pixels:
    """Put the crop `pixels` (3,C,C) into the middle of `canvas` (3,R,R) → (3,R,R). Raises `ExactPngError`."""
    if pixels.shape != (3, pre.crop, pre.crop) or canvas.shape != (3, pre.resize, pre.resize):
        raise ExactPngError(
            f"pixels {pixels.shape} and canvas {canvas.shape} do not fit a crop of {pre.crop} from {pre.resize} pixels"
        )
    whole = canvas.copy()
    centre_crop(whole, pre.crop)[...] = pixels
    return whole


def encode_png(pixels: Pixels) -> bytes:
    """Encode (3,H,W) as an RGB PNG, without loss."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, format="PNG")
    return file.getvalue()


def exact_png(pixels: Pixels, canvas: Pixels, pre: Preprocessing) -> bytes:
    """Encode attacked `pixels` (3,C,C) in the `canvas` (3,R,R) of the benign image, and check the way back.

    Raises `ExactPngError` where preprocessing the PNG would not give `pixels` again.
    """
    data = encode_png(lay_into(pixels, canvas, pre))
    if pixels_hash(file_pixels(data, pre)) != pixels_hash(pixels):
        raise ExactPngError("preprocessing the PNG does not give the attacked pixels back; nothing was saved")
    return data


def pixels_hash(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> str:
    """SHA-256 of an array's bytes in C order, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
