"""What an image file may go through on its way: saved as PNG or JPEG, or resized. Does the attack survive it?"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.images.edits import resize
from hardrank.models.decoding import decode


@dataclass(frozen=True, kw_only=True)
class TransformOptions:
    """Strength of the transforms. Raises `AuditError` outside the ranges."""

    jpeg_quality: int = 90
    """1 to 100, as in Pillow."""
    resize_percent: int = 50
    """Side of the resized image in % of the original, 10 to 200; it is then resized back."""

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise AuditError(f"the JPEG quality is {self.jpeg_quality}; give 1 to 100")
        if not 10 <= self.resize_percent <= 200:
            raise AuditError(f"the image is resized to {self.resize_percent} %; give 10 to 200")


@dataclass(frozen=True)
class Transform:
    """A transform of image files."""

    title: str
    apply: Callable[[bytes], bytes]
    """Bytes of a file → bytes of the transformed file."""


def transforms(options: TransformOptions) -> Mapping[str, Transform]:
    """Return the transforms by key, the identity (`png`) first."""
    quality, percent = options.jpeg_quality, options.resize_percent
    return {
        "png": Transform("saved as 8-bit PNG", lambda data: data),
        "jpeg": Transform(f"saved as JPEG, quality {quality}", lambda data: _as_jpeg(data, quality)),
        "resize": Transform(f"resized to {percent} % and back", lambda data: _resized(data, percent)),
    }


def _as_jpeg(data: bytes, quality: int) -> bytes:
    file = io.BytesIO()
    decode(data).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def _resized(data: bytes, percent: int) -> bytes:
    image = decode(data)
    file = io.BytesIO()
    resize(image, percent).resize(image.size, Image.Resampling.BICUBIC).save(file, format="PNG")
    return file.getvalue()
