"""Limits on an image file, checked before its pixels are decoded, and the errors of decoding."""

from dataclasses import asdict, dataclass

from hardrank.models.errors import HardrankError
from hardrank.models.image_files.stripped_file import StrippedFile


class DecodeLimitsError(HardrankError):
    """A limit that is not a positive whole number."""


class UndecodableImageError(HardrankError):
    """The bytes cannot be decoded as an image within the limits."""


class ImageTooLargeError(UndecodableImageError):
    """The image exceeds one of the `DecodeLimits`."""


class CostlyImageError(HardrankError):
    """Decoding the image would cost more than the `max_work` of the call; it may be fine all the same."""


class MissingDecoderError(UndecodableImageError):
    """The format of the image needs a package that is not installed."""


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


def check_cost(file: StrippedFile, limits: DecodeLimits) -> None:
    """Raise `ImageTooLargeError` for too many scans, or too large a strip or tile."""
    if file.scans > limits.max_scans:
        raise ImageTooLargeError(
            f"The JPEG has {file.scans} scans, above the limit of {limits.max_scans}; save it as a baseline JPEG."
        )
    if file.buffer_bytes > limits.max_buffer:
        raise ImageTooLargeError(
            f"A strip or tile of the TIFF has {file.buffer_bytes} bytes, above the limit of {limits.max_buffer}; save "
            "it with smaller ones."
        )


def check_scans(scans: int, size: tuple[int, int], limits: DecodeLimits) -> None:
    """Raise `ImageTooLargeError` for too many pixels in all scans together."""
    if scans * size[0] * size[1] > limits.max_scanned_pixels:
        raise ImageTooLargeError(
            f"The JPEG has {scans} scans of {size[0]}×{size[1]} pixels, above the limit of {limits.max_scanned_pixels} "
            "pixels in all scans; save it as a baseline JPEG."
        )


def check_size(size: tuple[int, int], limits: DecodeLimits, max_pixels: int | None = None) -> None:
    """Raise `ImageTooLargeError` for a side or an area above the limits, of which `max_pixels` is another."""
    width, height = size
    most = limits.max_pixels if max_pixels is None else min(max_pixels, limits.max_pixels)
    if width < 1 or height < 1:
        raise UndecodableImageError(f"The image has {width}×{height} pixels; use one with at least 1×1.")
    check_side(size, limits)
    if width * height > most:
        raise ImageTooLargeError(
            f"The image has {width}×{height} pixels, above the limit of {most} in all; use a smaller one."
        )


def check_side(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Raise `ImageTooLargeError` for a side above the limit."""
    if max(size) > limits.max_side:
        raise ImageTooLargeError(
            f"The image has {size[0]}×{size[1]} pixels, above the limit of {limits.max_side} a side; use a smaller one."
        )
