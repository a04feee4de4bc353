"""Pixels of more than 8 bits: from gray, floating-point and 16-bit color images to 8 bits.

Scientific cameras and scanners write 16-bit files whose pixels have 10, 12 or 14 bits. Their upper bytes alone would be
a black image, so the number of bits that an image uses is measured.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

_BAND_PIXELS: Final = 2**20
_SENSOR_BITS: Final = (8, 10, 12, 14, 16)
"""Bits that the pixels of a 16-bit image may have."""
_OTHER_NATIVE: Final = "16B" if sys.byteorder == "little" else "16L"
_SWAPPED: Final[Mapping[str, str]] = {
    f"{mode};{order}": f"{mode};{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("16B", "16L"), ("16L", "16B"), ("16N", _OTHER_NATIVE))
}
"""The layouts of 16-bit color, and those that read the lower byte of each value as if it were the upper one."""


def bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yield the first and last row (exclusive) of bands of about a million pixels."""
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def gray_to_eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert an image of the modes `I`, `I;16` … or `F` to uint8 (H,W)."""
    values = np.asarray(image)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> _shift(int(values.max(initial=0)))).astype(np.uint8)
    peak = max(float(_levels(values[top:bottom]).max(initial=0)) for top, bottom in bands(image))
    white = next((level for level in (1.0, 255.0, 65535.0) if peak <= level), peak)
    result = np.empty(values.shape, dtype=np.uint8)
    for top, bottom in bands(image):
        result[top:bottom] = np.rint(_levels(values[top:bottom]) / white * 255)
    return result


def lower_byte_tiles(image: Image.Image) -> list[Any] | None:
    """Return the decoding steps that read the lower bytes of a 16-bit color image; None for other images.

    An image whose `tile` is set to them before it is loaded has the lower bytes; as it is, it has the upper ones.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    swapped = []
    for tile in image.tile:
        given = tile.args
        mode = given[0] if isinstance(given, tuple) and given else given
        if not isinstance(mode, str) or mode not in _SWAPPED:
            return None
        args = (_SWAPPED[mode], *given[1:]) if isinstance(given, tuple) else _SWAPPED[mode]
        swapped.append(tile._replace(args=args))
    return swapped


def is_dark(image: Image.Image) -> bool:
    """Return whether no color of an RGB or RGBA image has its two upper bits, as if the pixels had 14 bits or fewer."""
    return all(image.getchannel(band).getextrema()[1] < 64 for band in "RGB")  # type: ignore[operator]


def join_bytes(upper: Image.Image, lower: Image.Image) -> None:
    """Scale 16-bit colors of few bits to 8 bits, in place.

    Args:
        upper: RGB or RGBA, the upper bytes; receives the result. Transparency is left as it is.
        lower: The lower bytes, in the same mode and size.
    """
    shift = _shift(max(int(_colors(upper, lower, rows).max(initial=0)) for rows in bands(upper)))
    for rows in bands(upper):
        band = np.array(upper.crop((0, rows[0], upper.width, rows[1])))
        band[..., :3] = _colors(upper, lower, rows) >> shift
        upper.paste(Image.fromarray(band), (0, rows[0]))


def _colors(upper: Image.Image, lower: Image.Image, rows: tuple[int, int]) -> npt.NDArray[np.uint16]:
    box = (0, rows[0], upper.width, rows[1])
    high, low = (np.asarray(image.crop(box))[..., :3].astype(np.uint16) for image in (upper, lower))
    return (high << 8 | low).astype(np.uint16)


def _shift(largest: int) -> int:
    return next(bits - 8 for bits in _SENSOR_BITS if largest < 2**bits)


def _levels(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
