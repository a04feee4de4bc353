"""From the bytes of an image file to an RGB image.

For any bytes, `decode` returns an image or raises `UndecodableImageError`, nothing else.
"""

import contextlib
import ctypes
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from hardrank.models.color_profiles import to_srgb
from hardrank.models.errors import HardrankError
from hardrank.models.image_files import StrippedFile, StructureLimitError, orientation, strip_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The enabled decoders, by Pillow's names."""

_TRANSPOSITIONS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255, 255)
_BAND_PIXELS = 2**20
_SENSOR_BITS = (8, 10, 12, 14, 16)
"""Bits that the pixels of a 16-bit gray image may have."""


class DecodeLimitsError(HardrankError):
    """A limit that is not a positive whole number."""


class UndecodableImageError(HardrankError):
    """The bytes cannot be decoded as an image within the limits."""


class ImageTooLargeError(UndecodableImageError):
    """The image exceeds one of the `DecodeLimits`."""


def is_positive_integer(value: object) -> bool:
    """Return whether a value is a whole number of at least 1, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits on one image, all checked before any pixel is decoded. Pillow's own limit (179 Mpx) stays on."""

    max_bytes: int = 32 * 2**20
    """Bytes of the file."""
    max_pixels: int = 50_000_000
    """Width × height, pixels. A baseline JPEG may have four times as many: it is decoded at a half of its size."""
    max_side: int = 16_384
    """The longer side, pixels."""
    max_scans: int = 100
    """Scans of a progressive JPEG (cameras and editors write about ten; each costs a pass over the whole image)."""

    max_buffer: int = 512 * 2**20
    """Bytes of the largest strip or tile of a TIFF, which the decoder holds besides the image."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_positive_integer(value):
                raise DecodeLimitsError(f"{name} is {value!r}; give a positive whole number.")

    @property
    def max_scanned_pixels(self) -> int:
        """Scans × pixels of a progressive JPEG: twenty scans of the largest image."""
        return 20 * self.max_pixels


DEFAULT_LIMITS = DecodeLimits()


def decode(data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode the first frame of an image file.

    The EXIF orientation and the ICC profile are applied, and transparency is composited on white; gray, palette, CMYK
    and deeper pixels become 8-bit sRGB. A baseline JPEG of more than `limits.max_pixels` is decoded at half its size.

    Args:
        data: The bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.
        limits: Limits on the file and the image.

    Returns:
        An RGB image without metadata.

    Raises:
        ImageTooLargeError: The image exceeds the limits.
        UndecodableImageError: The bytes are not an intact image.
    """
    if not data:
        raise UndecodableImageError("The image is empty (0 bytes); use the whole file.")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"The image has {len(data)} bytes, above the limit of {limits.max_bytes}; use a smaller file."
        )
    try:
        return _decode(data, limits)
    except HardrankError:
        raise
    except StructureLimitError as error:
        raise ImageTooLargeError(f"{error}; save it in a simpler form, such as a baseline JPEG.") from error
    except UnidentifiedImageError as error:
        # Pillow's own message only gives the address of the buffer.
        raise UndecodableImageError(
            f"The bytes are not an image of a supported format; use one of {', '.join(FORMATS)}."
        ) from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageTooLargeError(f"The image is too large to decode ({_cause(error)}); use a smaller one.") from error
    except Exception as error:
        # Decoders of malformed files raise nearly anything: OSError, SyntaxError, ValueError, struct.error, zlib.error,
        # OverflowError, EOFError, IndexError, KeyError, TypeError … The remedy is the same for all.
        raise UndecodableImageError(
            f"The image is damaged or truncated ({_cause(error)}); use an intact file."
        ) from error


def read_bytes(path: Path, *, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
    """Read an image file, but never more than the limit.

    Args:
        path: The file.
        limits: `limits.max_bytes` applies.

    Returns:
        The bytes of the file.

    Raises:
        ImageTooLargeError: The file is larger than `limits.max_bytes`.
        UndecodableImageError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        raise UndecodableImageError(
            f"The file cannot be read ({_cause(error)}); check its path and permissions."
        ) from error
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"The file has more than {limits.max_bytes} bytes; use a smaller one.")
    return data


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: transparency on white, deep pixels scaled to 8 bits.

    16-bit gray keeps its upper byte, as 16-bit color does in Pillow, unless all pixels have 8, 10, 12 or 14 bits, as
    those of scientific cameras: then white is the largest value of so many bits. 32-bit integers and floats have no
    fixed white level: it is the smallest of 1, 255 and 65535 that no pixel exceeds, else the largest value. Negative
    and non-finite values are black. Raises `UndecodableImageError` for a mode without a conversion.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_eight_bits(image))
    try:
        if image.has_transparency_data:
            return _on_white(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise UndecodableImageError(
            f"The colour mode {image.mode} cannot be converted to RGB; save the image as RGB."
        ) from error


def _decode(data: bytes, limits: DecodeLimits) -> Image.Image:
    file = strip_metadata(data)
    if file.size is not None:
        _check_size(file.size, limits)
    _check_cost(file, limits)
    with Image.open(io.BytesIO(file.data), formats=FORMATS) as image:
        full = image.size
        if file.sequential and full[0] * full[1] > limits.max_pixels:
            # Only above the limit, because it changes the pixels.
            image.draft(image.mode, (max(1, full[0] // 2), max(1, full[1] // 2)))
            _check_side(full, limits)
        _check_size(image.size, limits)
        _check_scans(file.scans, image.size, limits)
        image.load()
        # Pillow itself rotates TIFF files and leaves no EXIF.
        turn = _TRANSPOSITIONS.get(orientation(file.exif or image.info.get("exif", b"")))
        result = to_rgb(to_srgb(image, file.icc))
        if result is image:
            result = image.copy()
    if turn is not None:
        result = result.transpose(turn)
    # A caller would apply an orientation that is left in here a second time.
    result.info.clear()
    return result


def _check_cost(file: StrippedFile, limits: DecodeLimits) -> None:
    if file.scans > limits.max_scans:
        raise ImageTooLargeError(
            f"The JPEG has {file.scans} scans, above the limit of {limits.max_scans}; save it as a baseline JPEG."
        )
    if file.buffer_bytes > limits.max_buffer:
        raise ImageTooLargeError(
            f"A strip or tile of the TIFF has {file.buffer_bytes} bytes, above the limit of {limits.max_buffer}; save "
            "it with smaller ones."
        )


def _check_scans(scans: int, size: tuple[int, int], limits: DecodeLimits) -> None:
    if scans * size[0] * size[1] > limits.max_scanned_pixels:
        raise ImageTooLargeError(
            f"The JPEG has {scans} scans of {size[0]}×{size[1]} pixels, above the limit of {limits.max_scanned_pixels} "
            "pixels in all scans; save it as a baseline JPEG."
        )


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UndecodableImageError(f"The image has {width}×{height} pixels; use one with at least 1×1.")
    _check_side(size, limits)
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"The image has {width}×{height} pixels, above the limit of {limits.max_pixels} in all; use a smaller one."
        )


def _check_side(size: tuple[int, int], limits: DecodeLimits) -> None:
    if max(size) > limits.max_side:
        raise ImageTooLargeError(
            f"The image has {size[0]}×{size[1]} pixels, above the limit of {limits.max_side} a side; use a smaller one."
        )


def _on_white(image: Image.Image) -> Image.Image:
    """Composite on white, in bands of rows: a whole copy in RGBA, or three, would hold much more memory."""
    result = Image.new("RGB", image.size)
    for top, bottom in _bands(image):
        band = image.crop((0, top, image.width, bottom)).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", band.size, _WHITE), band).convert("RGB"), (0, top))
    return result


def _to_eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    values = np.asarray(image)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        largest = int(values.max(initial=0))
        shift = next(bits - 8 for bits in _SENSOR_BITS if largest < 2**bits)
        return (values >> shift).astype(np.uint8)
    peak = max(float(_levels(values[top:bottom]).max(initial=0)) for top, bottom in _bands(image))
    white = next((level for level in (1.0, 255.0, 65535.0) if peak <= level), peak)
    result = np.empty(values.shape, dtype=np.uint8)
    for top, bottom in _bands(image):
        result[top:bottom] = np.rint(_levels(values[top:bottom]) / white * 255)
    return result


def _levels(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yield the first and last row (exclusive) of bands of about `_BAND_PIXELS` pixels."""
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def _cause(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _silence_decoders() -> None:
    """Make decoders report damage by exceptions alone.

    libtiff writes to the standard error, past the log, as often as a file makes it; Pillow warns, with texts from the
    file that Python remembers forever. libtiff can be reached if it is a shared library, as in Pillow's wheels for
    Linux and macOS.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(import_module("PIL._imaging").__file__)
        for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


_silence_decoders()
