"""From the bytes of an image file to an RGB image.

For any bytes, `decode` returns an image or raises `UndecodableImageError`, nothing else.
"""

import contextlib
import ctypes
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError, features

from hardrank.models.color_profiles import to_srgb
from hardrank.models.decode_limits import (
    DEFAULT_LIMITS,
    CostlyImageError,
    DecodeLimits,
    ImageTooLargeError,
    MissingDecoderError,
    UndecodableImageError,
    check_cost,
    check_scans,
    check_side,
    check_size,
)
from hardrank.models.deep_pixels import bands, gray_to_eight_bits, is_dark, join_bytes, lower_byte_tiles
from hardrank.models.errors import HardrankError
from hardrank.models.image_files.animation import Frame, later_frames
from hardrank.models.image_files.exif import orientation
from hardrank.models.image_files.strip import strip_metadata
from hardrank.models.image_files.stripped_file import StrippedFile, StructureLimitError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""The enabled decoders, by Pillow's names; besides these, HEIC if pillow-heif is installed."""
_BY_SIGNATURE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The others are recognized by `strip_metadata`."""

_TRANSPOSITIONS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
"""Those that swap width and height."""
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFile:
    """The image of a file, and the size of the original."""

    image: Image.Image
    """RGB, without metadata."""
    width: int
    """Pixels of the original in its orientation, of which `image` may have half."""
    height: int
    """Like `width`."""


def decode(data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image file: `decode_file` without the size of the original, with the same arguments and errors."""
    return decode_file(data, limits=limits).image


def decode_file(data: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS, max_work: int | None = None) -> DecodedFile:
    """Decode the first frame of an image file; of an animation, the first frame that is not wholly transparent.

    The orientation and the ICC profile are applied, and transparency is composited on white; gray, palette, CMYK
    and deeper pixels become 8-bit sRGB. A baseline JPEG of more than `limits.max_pixels` is decoded at half its size.

    Args:
        data: The bytes of a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or HEIC file. HEIC needs pillow-heif.
        limits: Limits on the file and the image.
        max_work: Refuse images with more pixels to decode, in all scans and empty frames together, and those of
            decoders that make other threads wait; None: decode all.

    Returns:
        An RGB image without metadata, and the size of the original.

    Raises:
        CostlyImageError: See `max_work`.
        ImageTooLargeError: The image exceeds the limits.
        MissingDecoderError: The format needs a package that is not installed.
        UndecodableImageError: The bytes are not an intact image.
    """
    if not data:
        raise UndecodableImageError("The image is empty (0 bytes); use the whole file.")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"The image has {len(data)} bytes, above the limit of {limits.max_bytes}; use a smaller file."
        )
    try:
        return _decode(data, limits, max_work)
    except HardrankError:
        raise
    except StructureLimitError as error:
        raise ImageTooLargeError(f"{error}; save it in a simpler form, such as a baseline JPEG.") from error
    except UnidentifiedImageError as error:
        # Pillow's own message only gives the address of the buffer.
        raise UndecodableImageError(
            f"The bytes are not an image of a supported format; use one of {', '.join(FORMATS)}, HEIC."
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

    16-bit gray keeps its upper byte, unless all pixels have 8, 10, 12 or 14 bits, as those of scientific cameras: then
    white is the largest value of so many bits. 32-bit integers and floats have no
    fixed white level: it is the smallest of 1, 255 and 65535 that no pixel exceeds, else the largest value. Negative
    and non-finite values are black. Raises `UndecodableImageError` for a mode without a conversion.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(gray_to_eight_bits(image))
    try:
        if image.has_transparency_data:
            return _on_white(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise UndecodableImageError(
            f"The color mode {image.mode} cannot be converted to RGB; save the image as RGB."
        ) from error


def _decode(data: bytes, limits: DecodeLimits, max_work: int | None) -> DecodedFile:
    file = strip_metadata(data)
    if file.size is not None:
        check_size(file.size, limits, file.max_pixels)
    check_cost(file, limits)
    if max_work is not None and file.slow:  # before its decoder reads anything
        raise CostlyImageError("decoding this image is expensive")
    with _open(file.data, file.decoder) as image:
        full = image.size
        halved = file.sequential and full[0] * full[1] > limits.max_pixels
        if halved:
            # Only above the limit, because it changes the pixels.
            image.draft(image.mode, (max(1, full[0] // 2), max(1, full[1] // 2)))
            check_side(full, limits)
        check_size(image.size, limits, file.max_pixels)
        check_scans(file.scans, image.size, limits)
        if max_work is not None and _work(file, full) > max_work:
            raise CostlyImageError("decoding this image is expensive")
        _load(image, file)
        # Pillow itself rotates TIFF files and leaves no EXIF.
        turn = _TRANSPOSITIONS.get(orientation(file.exif or image.info.get("exif") or b""))
        visible = _first_visible(image, data, limits, max_work)
        result = to_rgb(to_srgb(visible, file.icc))
        if result is image:
            result = image.copy()
    if turn is not None:
        result = result.transpose(turn)
    # A caller would apply an orientation that is left in here a second time.
    result.info.clear()
    if not halved:
        full = result.size
    elif turn in _SWAPPING:
        full = (full[1], full[0])
    return DecodedFile(image=result, width=full[0], height=full[1])


def _work(file: StrippedFile, size: tuple[int, int]) -> int:
    """Return the pixels that a decoder processes; a strip or tile of a TIFF may have more than the image."""
    return max(size[0] * size[1] * file.scans, file.buffer_bytes // 4)


def _open(data: bytes, decoder: str) -> Image.Image:
    if decoder == "HEIF":
        enable_heic()
    if decoder == "AVIF" and not features.check("avif"):
        raise MissingDecoderError(
            "This Pillow cannot decode AVIF; install Pillow 11.3 or later, or use another format."
        )
    return Image.open(io.BytesIO(data), formats=(decoder,) if decoder else _BY_SIGNATURE)


@cache
def enable_heic() -> None:
    """Let Pillow open HEIC files; raises `MissingDecoderError` without pillow-heif."""
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingDecoderError(
            "HEIC images need pillow-heif; install it with pip install 'hardrank[heic]', or use another format."
        ) from error
    # One thread per image: several images are decoded at a time.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _load(image: Image.Image, file: StrippedFile) -> None:
    """Load the pixels; 16-bit colors of few bits are scaled to 8 bits, for which their lower bytes are decoded too."""
    deep = lower_byte_tiles(image) is not None
    image.load()
    if deep and image.mode in {"RGB", "RGBA"} and is_dark(image):
        with _open(file.data, file.decoder) as lower:
            assert isinstance(lower, ImageFile.ImageFile)
            lower.tile = lower_byte_tiles(lower) or []
            lower.load()
            join_bytes(image, lower)


def _first_visible(image: Image.Image, data: bytes, limits: DecodeLimits, max_work: int | None) -> Image.Image:
    """Return the first frame of an animation that is not empty; the loaded first one if all are."""
    if not _is_empty(image):
        return image
    work = 0
    for frame in later_frames(data):
        with _open(frame.data, "") as opened:
            check_size(opened.size, limits)
            # Empty frames cost as much as others: all together have the pixels of the largest image. A frame of a PNG
            # may be smaller than the canvas, one of a GIF larger than those before.
            work += max(image.width * image.height, opened.width * opened.height)
            if work > limits.max_pixels:
                break
            if max_work is not None and work > max_work:
                raise CostlyImageError("decoding this animation is expensive")
            found = _load_frame(opened, frame)
        if found is not None and not _is_empty(found):
            return found
    return image


def _load_frame(image: Image.Image, frame: Frame) -> Image.Image | None:
    """Load a frame on its transparent canvas; None if it is not within the canvas."""
    if frame.canvas is None:
        image.load()
        return image.copy()
    (left, top), (width, height) = frame.place, frame.canvas
    if left + image.width > width or top + image.height > height:
        return None
    canvas = Image.new("RGBA", frame.canvas)
    canvas.paste(image.convert("RGBA"), frame.place)
    return canvas


def _is_empty(image: Image.Image) -> bool:
    """Return whether an image is wholly transparent."""
    if not image.has_transparency_data:
        return False
    for top, bottom in bands(image):
        alpha = image.crop((0, top, image.width, bottom)).convert("RGBA").getchannel("A")
        if alpha.getextrema()[1] > 0:  # type: ignore[operator]
            return False
    return True


def _on_white(image: Image.Image) -> Image.Image:
    """Composite on white, in bands of rows: a whole copy in RGBA, or three, would hold much more memory."""
    result = Image.new("RGB", image.size)
    for top, bottom in bands(image):
        band = image.crop((0, top, image.width, bottom)).convert("RGBA")
        result.paste(Image.alpha_composite(Image.new("RGBA", band.size, _WHITE), band).convert("RGB"), (0, top))
    return result


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
