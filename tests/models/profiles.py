"""ICC profiles for tests, written byte by byte: three primaries with a tone curve, or a table for four inks.

And an image of many colors to try them on.
"""

import io
import itertools
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
"""X, Y, Z of red, green and blue under D50."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_CURVE = struct.pack(">4sIHH5i", b"para", 0, 3, 0, *(round(65536 * value) for value in _SRGB_CURVE))
ADOBE_CURVE = struct.pack(">4sIIHH", b"curv", 0, 1, 563, 0)
_D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: tuple[tuple[float, float, float], ...], curve: bytes) -> bytes:
    """Return the profile of a display."""
    tags = {b"wtpt": _xyz(_D50)}
    for channel, primary in zip(b"rgb", primaries, strict=True):
        tags[bytes([channel]) + b"XYZ"] = _xyz(primary)
        tags[bytes([channel]) + b"TRC"] = curve
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def ink_profile(full_cyan: tuple[int, int, int]) -> bytes:
    """Return the profile of a printer whose paper is white, and whose cyan ink has the color L*, a*, b*."""
    grid = b""
    for inks in itertools.product((0, 1), repeat=4):
        lightness, a, b = full_cyan if inks == (1, 0, 0, 0) else (0, 0, 0) if any(inks) else (100, 0, 0)
        grid += bytes([round(2.55 * lightness), 128 + a, 128 + b])
    identity = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = struct.pack(">4sI4B", b"mft1", 0, 4, 3, 2, 0) + matrix + 4 * identity + grid + 3 * identity
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"wtpt": _xyz(_D50)})


def with_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the same colors, given in the space of a profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode="RGB")
    assert converted is not None
    converted.info.clear()
    return converted


def gradient(width: int = 96, height: int = 64) -> Image.Image:
    """Return an image of smooth colors over most of the cube."""
    y, x = np.mgrid[0:height, 0:width]
    levels = np.stack([255 * x / (width - 1), 255 * y / (height - 1), 255 * (x + y) / (width + height - 2)], axis=-1)
    return Image.fromarray(levels.round().astype(np.uint8))


def levels(image: Image.Image) -> npt.NDArray[np.int16]:
    """Return the channels of an image as signed numbers, whose differences do not wrap."""
    return np.asarray(image, dtype=np.int16)


def _xyz(values: tuple[float, ...]) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(65536 * value) for value in values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    tags = {**tags, b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)}
    offset, directory, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        directory += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(body), b"test", 0x02400000, kind, space, connection, bytes(12), b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", *(round(65536 * value) for value in _D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + body
