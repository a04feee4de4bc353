"""Convert decoded images with an ICC profile (Display P3, Adobe RGB, CMYK printing …) to sRGB."""

import io
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

import numpy as np
from PIL import Image

MAX_PROFILE_BYTES: Final = 4 * 2**20
"""Larger profiles are ignored; those of printing processes have up to three megabytes."""

_SPACES: Final = {b"RGB ": "RGB", b"CMYK": "CMYK", b"GRAY": "L"}
_TOLERANCE: Final = 2
"""Levels of 255 by which a profile may change colors and still count as sRGB, which needs no conversion."""
_PROBE: Final = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3, indexing="ij"), axis=-1)
"""(6,6,6,3), colors over the whole cube."""
_CACHED: Final = 8


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image to sRGB; an image without a usable profile is returned as it is.

    Args:
        image: A loaded image; one in RGB or RGBA is changed in place.
        profile: Its ICC profile; empty: none. A damaged profile is ignored, as in browsers.

    Returns:
        The image, in RGB or RGBA if it was converted. Images with more than 8 bits per channel are not converted.
    """
    space = _space(profile)
    if space is None:
        return image
    if space == "RGB" and image.mode in {"L", "LA", "P", "PA"}:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in ({"RGB", "RGBA"} if space == "RGB" else {space}):
        return image
    transform = _transform(profile, image.mode)
    if transform is None:
        return image
    from PIL import ImageCms

    converted = ImageCms.applyTransform(image, transform, inPlace=space == "RGB")
    return image if converted is None else converted


def _space(profile: bytes) -> str | None:
    """Return the mode of the images that a profile describes; None if it is not usable."""
    if not 132 <= len(profile) <= MAX_PROFILE_BYTES or profile[36:40] != b"acsp":
        return None
    # Chains of arbitrarily many steps (multiProcessElements) could take minutes.
    if b"mpet" in profile:
        return None
    return _SPACES.get(profile[16:20])


@lru_cache(maxsize=_CACHED)
def _transform(profile: bytes, mode: str) -> Any:
    """Return the conversion of a profile to sRGB; None if none is needed, or the profile is damaged."""
    try:
        from PIL import ImageCms
    except ImportError:  # a Pillow that was built without Little CMS
        return None
    with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
        if mode in {"RGB", "RGBA"} and _changes_nothing(profile):
            return None
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    return None


def _changes_nothing(profile: bytes) -> bool:
    """Return whether a profile is that of sRGB, as most are."""
    from PIL import ImageCms

    probe = Image.fromarray(_PROBE.reshape(36, 6, 3))
    converted = ImageCms.profileToProfile(
        probe,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    difference = np.asarray(converted, dtype=np.int16) - np.asarray(probe, dtype=np.int16)
    return bool(np.abs(difference).max() <= _TOLERANCE)
