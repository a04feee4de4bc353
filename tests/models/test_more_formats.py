"""AVIF, HEIC and JPEG 2000; animations that begin with empty frames; 16-bit colors."""

import io
import struct
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from hardrank.models.decode_limits import DecodeLimits, ImageTooLargeError, MissingDecoderError, UndecodableImageError
from hardrank.models.decoding import decode, decode_file
from hardrank.models.image_files.av1 import largest_frame
from hardrank.models.image_files.boxes import BoxReader
from hardrank.models.image_files.jpeg2000 import _code_blocks
from hardrank.models.image_files.media_items import read_item_data
from hardrank.models.image_files.strip import strip_metadata
from hardrank.models.image_files.stripped_file import StructureLimitError
from tests.models import hostile_images
from tests.models.hostile_images import (
    avif_of_frames,
    avif_that_tells,
    exif_of,
    jpeg2000_of_boxes,
    jpeg2000_of_precincts,
    png_chunk,
    tiff,
)
from tests.models.profiles import P3, SRGB_CURVE, gradient, levels, rgb_profile, with_profile

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
needs_jpeg2000 = pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
MODERN = [pytest.param("AVIF", marks=needs_avif), "HEIF", pytest.param("JPEG2000", marks=needs_jpeg2000)]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    return hostile_images.encoded(image, kind, **options)


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return float(np.abs(levels(one) - levels(other)).mean())


class TestModernFormats:
    @pytest.mark.parametrize("kind", MODERN)
    def test_pixels(self, kind: str) -> None:
        decoded = decode_file(encoded(gradient(), kind))
        assert (decoded.image.mode, decoded.width, decoded.height) == ("RGB", 96, 64)
        assert difference(decoded.image, gradient()) < 3

    @pytest.mark.parametrize("kind", MODERN)
    def test_transparency_is_on_white(self, kind: str) -> None:
        image = gradient().convert("RGBA")
        image.paste((0, 0, 0, 0), (0, 0, 32, 32))
        decoded = levels(decode(encoded(image, kind)))
        assert decoded[4:28, 4:28].min() > 245
        assert np.abs(decoded[40:, 40:] - levels(gradient())[40:, 40:]).mean() < 4

    @pytest.mark.parametrize("kind", MODERN)
    def test_limits_apply_before_decoding(self, kind: str) -> None:
        data = encoded(gradient(), kind)
        assert strip_metadata(data).size == (96, 64)
        with pytest.raises(ImageTooLargeError, match="96×64 pixels, above the limit of 6143"):
            decode(data, limits=DecodeLimits(max_pixels=96 * 64 - 1))

    @pytest.mark.parametrize("kind", MODERN)
    def test_any_changed_or_missing_byte_is_harmless(self, kind: str) -> None:
        whole = np.frombuffer(encoded(gradient(), kind), dtype=np.uint8)
        generator = np.random.default_rng(0)
        for turn in range(120):
            data = whole.copy()
            reach = len(data) if turn % 2 else 300
            data[generator.integers(0, min(len(data), reach), 3)] = generator.integers(0, 256, 3)
            if turn % 5 == 0:
                data = data[: generator.integers(1, len(data))]
            try:
                assert decode(data.tobytes(), limits=DecodeLimits(max_pixels=10**6)).mode == "RGB"
            except UndecodableImageError:
                continue

    @pytest.mark.parametrize("kind", MODERN[:2])
    def test_a_profile_is_applied(self, kind: str) -> None:
        profile = rgb_profile(P3, SRGB_CURVE)
        wide = with_profile(gradient(), profile)
        assert difference(wide, gradient()) > 4
        assert difference(decode(encoded(wide, kind, icc_profile=profile, quality=95)), gradient()) < 3

    @needs_avif
    def test_metadata_do_not_reach_the_decoder(self) -> None:
        exif = Image.Exif()
        exif[0x010E] = "a description that nobody needs"
        exif[0x0112] = 6
        data = encoded(gradient(), "AVIF", exif=exif.tobytes(), xmp=b"<x/>")
        stripped = strip_metadata(data)
        assert len(stripped.data) == len(data)
        with Image.open(io.BytesIO(stripped.data)) as image:
            assert "xmp" not in image.info
            assert b"description" not in image.info.get("exif", b"")
        assert decode(data).size == (64, 96)

    def test_orientation_of_a_heic_is_applied_once(self) -> None:
        pytest.importorskip("pillow_heif")
        decoded = decode_file(encoded(gradient(), "HEIF", exif=exif_of(6)))
        assert (decoded.width, decoded.height) == (64, 96)
        assert difference(decoded.image, gradient().transpose(Image.Transpose.ROTATE_270)) < 3

    @needs_avif
    def test_first_frame_of_an_avif_animation(self) -> None:
        frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "green")]
        data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])
        assert difference(decode(data), frames[0]) < 4

    @needs_avif
    @pytest.mark.parametrize("quality", [50, 100])
    @pytest.mark.parametrize("animated", [False, True])
    def test_the_size_in_the_data_of_an_avif_counts(self, quality: int, animated: bool) -> None:
        images = [gradient(96 + 2 * animated, 64)] * (2 if animated else 1)
        options: dict[str, Any] = {"save_all": True, "append_images": images[1:]} if animated else {}
        data = encoded(images[0], "AVIF", quality=quality, **options)
        assert strip_metadata(avif_that_tells(16, 16, data)).size == images[0].size
        with pytest.raises(ImageTooLargeError, match="64 pixels, above the limit of 5000"):
            decode(avif_that_tells(16, 16, data), limits=DecodeLimits(max_pixels=5000))

    @needs_avif
    def test_too_many_frames_of_an_avif(self) -> None:
        assert decode(avif_of_frames(0)).size == (16, 16)
        with pytest.raises(ImageTooLargeError, match="21 frames in one part"):
            decode(avif_of_frames(20))

    @pytest.mark.parametrize("kind", [b"avif", b"heic"])
    def test_boxes_that_would_take_long_to_read(self, kind: bytes) -> None:
        start = struct.pack(">I4s4sI", 16, b"ftyp", kind, 0)
        meta = struct.pack(">I4sI", 12, b"meta", 0)
        with pytest.raises(ImageTooLargeError, match="more than one description"):
            decode(start + 2 * meta)
        with pytest.raises(ImageTooLargeError, match="too many formats"):
            decode(struct.pack(">I4s4sI", 8_000_000, b"ftyp", kind, 0) + bytes(7_999_984))

    @pytest.mark.parametrize("timing", ["0", "1" + "0" * 63 + "11" + "00101" + "1" + "00010" + "1" * 42])
    def test_size_in_a_sequence_header(self, timing: str) -> None:
        """The timing has a count of 3 bits (two zeros before it), and a decoder model of delays of 3 bits."""
        points = (
            "1" + "00001" + ("1" * 12 + "01000" + "1" + ("1" + "1" * 7 if len(timing) > 1 else "") + "1" + "1" * 4) * 2
        )
        header = "000" + "00" + timing + points + f"{11:04b}{9:04b}" + f"{3000 - 1:012b}{700 - 1:010b}"
        body = int(header.ljust(8 * -(-len(header) // 8), "0"), 2).to_bytes(-(-len(header) // 8), "big")
        assert largest_frame(b"\x12\x00\x0a" + bytes([len(body)]) + body) == (3000, 700)

    @pytest.mark.parametrize(("version", "wide"), [(0, 2), (1, 2), (2, 4)])
    def test_data_of_items(self, version: int, wide: int) -> None:
        def meta(*extents: tuple[int, int]) -> bytes:
            number = f">{'I' if wide == 4 else 'H'}"
            body = struct.pack(">BBHBB", version, 0, 0, 0x44, 0) + struct.pack(number, 1) + struct.pack(number, 7)
            body += struct.pack(">H", 0) * (2 if version else 1) + struct.pack(">H", len(extents))
            body += b"".join(struct.pack(">II", *extent) for extent in extents)
            return struct.pack(">I4sII4s", 20 + len(body), b"meta", 0, 8 + len(body), b"iloc") + body

        def read(data: bytes) -> Mapping[int, bytes]:
            boxes = BoxReader(data)
            return read_item_data(boxes, next(boxes.read(0, len(data))))

        data = meta((0, 4), (4, 4))
        assert read(data) == {7: data[:8]}
        with pytest.raises(StructureLimitError, match="overlap"):
            read(meta((0, 50), (0, 50)))
        with pytest.raises(StructureLimitError, match="more than 10000 parts"):
            read(meta(*[(0, 1)] * 10_001) + bytes(20_000))
        with pytest.raises(ValueError, match="ends too early"):
            read(data[: 25 + wide] + b"\xff" + data[26 + wide :])  # 255 items

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from hardrank.models import decoding

        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        decoding.enable_heic.cache_clear()
        with pytest.raises(MissingDecoderError, match=r"hardrank\[heic\]"):
            decode(struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1") + bytes(100))

    def test_too_many_items(self) -> None:
        entry = struct.pack(">I4sIHH4s", 20, b"infe", 2 << 24, 1, 0, b"hvc1")
        listed = struct.pack(">I4sIH", 14 + 20 * 5000, b"iinf", 0, 5000) + entry * 5000
        meta = struct.pack(">I4sI", 12 + len(listed), b"meta", 0) + listed
        with pytest.raises(ImageTooLargeError, match="1000 parts"):
            decode(struct.pack(">I4s4sI", 16, b"ftyp", b"heic", 0) + meta)

    @needs_jpeg2000
    def test_structures_of_jpeg2000_that_would_take_long_to_read(self) -> None:
        with pytest.raises(ImageTooLargeError, match="more than 10000 boxes"):
            decode(jpeg2000_of_boxes(200, 100))
        with pytest.raises(ImageTooLargeError, match="1000 descriptions of its coding"):
            decode(jpeg2000_of_precincts(1100, 100))
        assert len(list(_code_blocks(jpeg2000_of_precincts(10, 60_000), 2))) == 10 * 33 + 1

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [(24, 1, "16384 tiles.*limit of 4096"), (8, 2**31, "limit of 16384"), (40, 300, "300 components")],
    )
    @needs_jpeg2000
    def test_expensive_jpeg2000_is_refused(self, field: int, value: int, message: str) -> None:
        data = bytearray(encoded(Image.new("L", (128, 128)), "JPEG2000", no_jp2=True))
        if field == 40:
            struct.pack_into(">H", data, field, value)
        elif field == 24:
            struct.pack_into(">II", data, field, value, value)
        else:
            struct.pack_into(">I", data, field, value)
            struct.pack_into(">I", data, field + 16, value)
        with pytest.raises(ImageTooLargeError, match=message):
            decode(bytes(data))


def gif_with_empty_start(image: Image.Image) -> bytes:
    """Make a GIF of two empty frames and an image."""
    data = encoded(image, "GIF")
    start = 13 + (3 << ((data[10] & 7) + 1))
    empty = b"\x21\xf9\x04\x01\0\0\0\0" + b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return data[:start] + empty * 2 + data[start:]


class TestEmptyFrames:
    @pytest.mark.parametrize("kind", ["WEBP", "PNG"])
    @pytest.mark.parametrize("count", [1, 3])
    def test_first_visible_frame(self, kind: str, count: int) -> None:
        empty = [Image.new("RGBA", (96, 64), (number, 0, 0, 0)) for number in range(count)]
        last = Image.new("RGBA", (96, 64), (0, 0, 255, 255))
        options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        frames = [*empty[1:], gradient().convert("RGBA"), last]
        data = encoded(empty[0], kind, save_all=True, append_images=frames, **options)
        assert np.array_equal(levels(decode(data)), levels(gradient()))

    def test_first_visible_frame_of_a_gif(self) -> None:
        image = gradient().quantize(32)
        data = gif_with_empty_start(image)
        with Image.open(io.BytesIO(data)) as shown:
            assert shown.convert("RGBA").getchannel("A").getextrema() == (0, 0)
        assert np.array_equal(levels(decode(data)), levels(image.convert("RGB")))

    def test_a_frame_keeps_its_place_on_the_canvas(self) -> None:
        head = struct.pack(">IIBBBBB", 8, 6, 8, 6, 0, 0, 0)
        control = struct.pack(">IIIIIHHBB", 1, 2, 3, 5, 1, 1, 10, 0, 0)
        body = struct.pack(">I", 2) + zlib.compress(b"".join(b"\0" + b"\xff\0\0\xff" * 2 for _ in range(3)))
        data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"acTL", struct.pack(">II", 2, 0))
        data += png_chunk(b"IDAT", zlib.compress(bytes((1 + 8 * 4) * 6))) + png_chunk(b"fcTL", control)
        data += png_chunk(b"fdAT", body) + png_chunk(b"IEND", b"")
        shown = levels(decode(data))
        assert shown.shape == (6, 8, 3)
        assert (shown[1:4, 5:7] == [255, 0, 0]).all()
        assert (shown == 255).sum() == 6 * 8 * 3 - 2 * 6

    def test_an_animation_of_empty_frames_only(self) -> None:
        frames = [Image.new("RGBA", (32, 32), (number, 0, 0, 0)) for number in range(100)]
        data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
        assert levels(decode(data)).min() == 255

    def test_later_frames_are_charged(self) -> None:
        empty = Image.new("RGBA", (96, 64))
        data = encoded(empty, "PNG", save_all=True, append_images=[gradient().convert("RGBA")])
        assert levels(decode(data, limits=DecodeLimits(max_pixels=96 * 64))).min() < 255
        frames = [Image.new("RGBA", (96, 64), (1, 0, 0, 0)), gradient().convert("RGBA")]
        data = encoded(empty, "PNG", save_all=True, append_images=frames)
        assert levels(decode(data, limits=DecodeLimits(max_pixels=96 * 64))).min() == 255


def deep_png(values: npt.NDArray[np.uint16]) -> bytes:
    """Make a 16-bit PNG of RGB or RGBA values (H,W,C)."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body) for kind, body in [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )


def deep_tiff(values: npt.NDArray[np.uint16], *, deflate: bool, order: str) -> bytes:
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    tags = {256: width, 257: height, 258: [16] * channels, 259: 8 if deflate else 1, 262: 2, 277: channels}
    extra = {338: 2} if channels == 4 else {}
    header = b"II*\0" if order == "<" else b"MM\0*"
    return tiff({**tags, **extra, 273: 8, 278: height, 279: len(pixels)}, pixels, header)


class TestDeepColor:
    @pytest.mark.parametrize("bits", [8, 10, 12, 14])
    @pytest.mark.parametrize("make", ["png", "tiff", "tiff, deflate", "tiff, big-endian", "tiff, big-endian, deflate"])
    @pytest.mark.parametrize("channels", [3, 4])
    def test_a_low_range_is_visible(self, bits: int, make: str, channels: int) -> None:
        ramp = np.linspace(0, 0.98 * (2**bits - 1), 256).astype(np.uint16)
        values = np.full((16, 256, channels), 65535, dtype=np.uint16)
        values[..., :3] = np.stack([ramp, ramp[::-1], ramp], axis=-1)
        if make == "png":
            data = deep_png(values)
        else:
            data = deep_tiff(values, deflate="deflate" in make, order=">" if "big" in make else "<")
        assert np.array_equal(levels(decode(data)), values[..., :3] >> (bits - 8))

    def test_the_whole_range_keeps_its_upper_byte(self) -> None:
        values = np.random.default_rng(0).integers(0, 65536, (16, 16, 3)).astype(np.uint16)
        assert np.array_equal(levels(decode(deep_png(values))), values >> 8)


@pytest.mark.parametrize("turn", range(1, 9))
def test_size_of_a_jpeg_that_is_decoded_at_half_size_is_that_of_the_original(turn: int) -> None:
    data = encoded(gradient(201, 200), "JPEG", exif=exif_of(turn))
    half = decode_file(data, limits=DecodeLimits(max_pixels=201 * 200 - 1))
    whole = decode_file(data)
    assert (half.width, half.height) == (whole.width, whole.height) == whole.image.size
    assert half.image.width == (whole.width + 1) // 2
