"""Colors mean the same in every file: ICC profiles are applied before anything else sees the pixels."""

import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from hardrank.models.color_profiles import MAX_PROFILE_BYTES, to_srgb
from hardrank.models.decode_limits import DecodeLimits, ImageTooLargeError
from hardrank.models.decoding import decode
from tests.models.hostile_images import encoded
from tests.models.profiles import (
    ADOBE_CURVE,
    ADOBE_RGB,
    P3,
    SRGB,
    SRGB_CURVE,
    gradient,
    ink_profile,
    levels,
    rgb_profile,
    with_profile,
)

PROFILES = {"Display P3": rgb_profile(P3, SRGB_CURVE), "Adobe RGB": rgb_profile(ADOBE_RGB, ADOBE_CURVE)}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
def test_colors_of_a_wide_gamut_become_srgb(name: str, kind: str, options: dict[str, Any]) -> None:
    wide = with_profile(gradient(), PROFILES[name])
    assert np.abs(levels(wide) - levels(gradient())).max() > 20
    data = encoded(wide, kind, icc_profile=PROFILES[name], **options)
    assert np.abs(levels(decode(data)) - levels(gradient())).mean() < 1.5
    without = encoded(wide, kind, **options)
    assert np.abs(levels(decode(without)) - levels(wide)).mean() < 1


def test_transparency_and_palettes_keep_their_colors() -> None:
    wide = with_profile(gradient(), PROFILES["Display P3"]).convert("RGBA")
    wide.paste((0, 0, 0, 0), (0, 0, 20, 20))
    decoded = levels(decode(encoded(wide, "PNG", icc_profile=PROFILES["Display P3"])))
    assert (decoded[:20, :20] == 255).all()
    assert np.abs(decoded[25:, 25:] - levels(gradient())[25:, 25:]).mean() < 1.5
    palette = with_profile(gradient(), PROFILES["Display P3"]).quantize(64)
    decoded = levels(decode(encoded(palette, "PNG", icc_profile=PROFILES["Display P3"])))
    assert np.abs(decoded - levels(palette.convert("RGB"))).max() > 10


def test_the_profile_of_srgb_changes_nothing() -> None:
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), rgb_profile(SRGB, SRGB_CURVE)):
        assert np.array_equal(levels(decode(encoded(gradient(), "PNG", icc_profile=profile))), levels(gradient()))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_have_the_color_of_their_profile(kind: str) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red = levels(decode(encoded(cyan, kind, icc_profile=ink_profile((53, 80, 67)))))[8, 8]
    assert red[0] > 230
    assert max(red[1:]) < 40
    white = decode(encoded(Image.new("CMYK", (16, 16)), kind, icc_profile=ink_profile((53, 80, 67))))
    assert levels(white).min() >= 250


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        PROFILES["Display P3"][:150],
        PROFILES["Display P3"].replace(b"rXYZ", b"xxxx"),
        PROFILES["Display P3"].replace(b"RGB ", b"CMYK"),
        PROFILES["Display P3"] + b"mpet",
        PROFILES["Display P3"].ljust(MAX_PROFILE_BYTES + 1, b"\0"),
        bytes(200),
    ],
)
def test_an_unusable_profile_is_ignored(profile: bytes) -> None:
    for kind in ("PNG", "TIFF"):
        data = encoded(gradient(), kind, icc_profile=profile)
        assert np.array_equal(levels(decode(data)), levels(gradient()))


def test_any_changed_byte_of_a_profile_is_harmless() -> None:
    generator = np.random.default_rng(0)
    whole = np.frombuffer(PROFILES["Display P3"], dtype=np.uint8)
    image = gradient(8, 8)
    for _ in range(300):
        changed = whole.copy()
        changed[generator.integers(0, len(changed), 3)] = generator.integers(0, 256, 3)
        assert to_srgb(image.copy(), changed.tobytes()).size == (8, 8)


def test_a_compressed_profile_is_read_up_to_the_limit() -> None:
    body = b"x\0\0" + zlib.compress(bytes(200 * 2**20))
    chunk = struct.pack(">I4s", len(body), b"iCCP") + body + struct.pack(">I", zlib.crc32(b"iCCP" + body))
    data = encoded(gradient(), "PNG")
    began = time.process_time()
    assert np.array_equal(levels(decode(data[:33] + chunk + data[33:])), levels(gradient()))
    assert time.process_time() - began < 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_images_with_a_low_range_are_visible(bits: int, kind: str) -> None:
    ramp = np.linspace(0, 0.98 * (2**bits - 1), 256).astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (16, 1)))
    shown = levels(decode(encoded(image, kind)))[0, :, 0]
    assert shown[0] == 0
    assert shown[-1] >= 245
    assert (np.diff(shown) >= 0).all()


def test_a_deep_image_with_the_whole_range_keeps_its_upper_byte() -> None:
    values = np.arange(0, 65536, 17, dtype=np.uint16)[None]
    shown = decode(encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(np.asarray(shown)[0, :, 0], values[0] >> 8)


def test_a_jpeg_above_the_limit_of_pixels_is_decoded_at_half_its_size() -> None:
    image = gradient(401, 300)
    data = encoded(image, "JPEG", quality=95)
    assert decode(data, limits=DecodeLimits(max_pixels=401 * 300)).size == (401, 300)
    half = decode(data, limits=DecodeLimits(max_pixels=401 * 300 - 1))
    assert half.size == (201, 150)
    assert np.abs(levels(half) - levels(image.resize((201, 150)))).mean() < 3
    with pytest.raises(ImageTooLargeError):
        decode(data, limits=DecodeLimits(max_pixels=201 * 150 - 1))
    progressive = encoded(image, "JPEG", progressive=True)  # a decoder holds all of it, even to reduce it
    with pytest.raises(ImageTooLargeError):
        decode(progressive, limits=DecodeLimits(max_pixels=401 * 300 - 1))
