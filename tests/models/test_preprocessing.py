"""Decoding: every format, mode and orientation, every limit, and no error but the typed ones."""

import io
import json
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageOps

from hardrank.models.decode_limits import DecodeLimits, DecodeLimitsError, ImageTooLargeError, UndecodableImageError
from hardrank.models.decoding import FORMATS, decode, read_bytes, to_rgb
from hardrank.models.errors import HardrankError
from hardrank.models.image_files.exif import orientation
from hardrank.models.image_files.strip import strip_metadata
from hardrank.models.preprocessing import (
    Fit,
    Interpolation,
    Preprocessing,
    PreprocessingError,
    center_crop,
    file_pixels,
    image_pixels,
    prepare,
    to_square,
    to_unit,
)
from tests.models import hostile_images as hostile

Pixels = npt.NDArray[np.uint8]
LOSSLESS = ("PNG", "BMP", "TIFF")


def photograph(width: int = 23, height: int = 17) -> Image.Image:
    """Draw an image without symmetry, so that all its rotations and reflections differ."""
    image = Image.new("RGB", (width, height), (200, 120, 40))
    ImageDraw.Draw(image).rectangle((1, 1, width // 2, height // 3), fill=(10, 240, 90))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    return hostile.encoded(image, kind, **options)


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.uint8)


class TestFormats:
    @pytest.mark.parametrize("kind", LOSSLESS)
    def test_lossless_formats_come_back_exactly(self, kind: str) -> None:
        assert np.array_equal(pixels(decode(encoded(photograph(), kind))), pixels(photograph()))

    @pytest.mark.parametrize("kind", FORMATS)
    def test_every_format_equals_pillow(self, kind: str) -> None:
        data = encoded(photograph(), kind)
        image = decode(data)
        assert image.mode == "RGB"
        assert np.array_equal(pixels(image), pixels(Image.open(io.BytesIO(data)).convert("RGB")))

    @pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 40}, {"restart_marker_blocks": 1}])
    def test_jpegs_of_all_kinds_equal_pillow(self, options: dict[str, Any]) -> None:
        data = encoded(photograph(), "JPEG", comment=b"a comment", exif=Image.Exif().tobytes(), **options)
        assert np.array_equal(pixels(decode(data)), pixels(Image.open(io.BytesIO(data))))

    @pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA"])
    def test_an_unsupported_format_is_refused_and_the_supported_ones_are_named(self, kind: str) -> None:
        with pytest.raises(UndecodableImageError, match="JPEG, PNG, WEBP, GIF, BMP, TIFF") as caught:
            decode(encoded(photograph(32, 32), kind))
        assert "BytesIO" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_first_frame_of_several(self, kind: str) -> None:
        first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert np.array_equal(pixels(decode(data)), pixels(first))

    def test_photograph_with_a_second_one_inside(self) -> None:
        data = encoded(photograph(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
        assert decode(data).size == (23, 17)

    def test_reference_photographs_equal_pillow(self, shared_dir: Path) -> None:
        for path in sorted((shared_dir / "data" / "caltech101").rglob("*.jpg"))[::400]:
            data = path.read_bytes()
            assert np.array_equal(pixels(decode(data)), pixels(Image.open(io.BytesIO(data)).convert("RGB")))


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
    def test_opaque_modes_equal_pillow_in_tiff(self, mode: str) -> None:
        image = photograph().convert(mode)
        assert np.array_equal(pixels(decode(encoded(image, "TIFF"))), pixels(image.convert("RGB")))

    def test_cmyk_jpeg_is_not_inverted(self) -> None:
        red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        assert np.abs(pixels(decode(encoded(red, "JPEG"))).astype(int) - [255, 0, 0]).max() < 12

    def test_alpha_lies_on_white(self) -> None:
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
        image.putpixel((1, 0), (100, 0, 0, 0))
        assert pixels(decode(encoded(image))).tolist() == [[[0, 0, 0], [255, 255, 255]]]

    def test_half_transparent_grey_lies_on_white(self) -> None:
        gray = pixels(decode(encoded(Image.new("LA", (1, 1), (0, 128)))))[0, 0]
        assert gray.tolist() == [127, 127, 127]

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_transparent_palette_entry_is_white(self, kind: str) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([9, 8, 7, 200, 100, 50] + [0] * 6)
        image.putpixel((1, 0), 1)
        data = encoded(image, kind, transparency=0)
        assert pixels(decode(data)).tolist() == [[[255, 255, 255], [200, 100, 50]]]

    def test_transparent_color_of_grey_and_rgb_is_white(self) -> None:
        assert pixels(decode(encoded(Image.new("L", (1, 1), 7), transparency=7))).max() == 255
        assert pixels(decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)))).min() == 255

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_sixteen_bits_keep_the_upper_byte(self, kind: str) -> None:
        values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
        assert pixels(decode(encoded(Image.fromarray(values), kind)))[0, :, 0].tolist() == [0, 0, 1, 128, 255]

    def test_sixteen_bits_of_either_byte_order(self) -> None:
        values = np.array([[0, 513, 65535]], dtype=">u2")
        image = Image.frombytes("I;16B", (3, 1), values.tobytes())
        assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 2, 255]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.0, 100.0, 255.0], [0, 100, 255]),
            ([0.0, 32767.5, 65535.0], [0, 128, 255]),
            ([0.0, 5e5, 1e6], [0, 128, 255]),
            ([-3.0, np.nan, np.inf], [0, 0, 0]),
        ],
    )
    def test_floats_by_their_largest_value(self, values: list[float], expected: list[int]) -> None:
        image = Image.fromarray(np.array([values], dtype=np.float32))
        assert pixels(decode(encoded(image, "TIFF")))[0, :, 0].tolist() == expected

    def test_whole_numbers_of_32_bits(self) -> None:
        image = Image.fromarray(np.array([[-5, 0, 257, 65535]], dtype=np.int32))
        assert pixels(decode(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 0, 1, 255]

    def test_mode_without_conversion_is_named(self) -> None:
        with pytest.raises(UndecodableImageError, match="color mode La"):
            to_rgb(Image.new("La", (2, 2)))

    def test_one_pixel(self) -> None:
        assert prepare(encoded(Image.new("RGB", (1, 1), (255, 0, 51))), Preprocessing(resize=4, crop=2)).tolist() == [
            [[1.0] * 2] * 2,
            [[0.0] * 2] * 2,
            [[np.float32(0.2)] * 2] * 2,
        ]


class TestOrientation:
    @pytest.mark.parametrize("turn", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
    def test_every_orientation_equals_pillow(self, kind: str, turn: int) -> None:
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(photograph(), kind, exif=hostile.exif_of(turn), **options)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert expected.size == ((17, 23) if turn >= 5 else (23, 17))
        assert np.array_equal(pixels(decode(data)), pixels(expected))

    def test_the_result_has_no_orientation_left(self) -> None:
        image = decode(encoded(photograph(), "JPEG", exif=hostile.exif_of(6)))
        assert dict(image.getexif()) == {}
        assert image.info == {}

    @pytest.mark.parametrize("byte_order", ["<", ">"])
    def test_both_byte_orders(self, byte_order: str) -> None:
        head = b"II*\x00" if byte_order == "<" else b"MM\x00*"
        exif = head + struct.pack(f"{byte_order}IHHHIHH", 8, 1, 0x0112, 3, 1, 8, 0)
        assert orientation(exif) == orientation(b"Exif\x00\x00" + exif) == 8

    @pytest.mark.parametrize(
        "exif",
        [
            b"",
            b"II*\x00",
            b"II*\x00\xff\xff\xff\xff",
            b"II*\x00\x08\x00\x00\x00\xff\xff",
            b"nonsense" * 5,
            b"II*\x00" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 9, 0),
            b"II*\x00" + struct.pack("<IHHHII", 8, 1, 0x0112, 4, 1, 6),
        ],
    )
    def test_damaged_exif_counts_as_upright(self, exif: bytes) -> None:
        assert orientation(exif) == 1
        assert np.array_equal(pixels(decode(encoded(photograph(), exif=b"Exif\x00\x00" + exif))), pixels(photograph()))


class TestLimits:
    def test_empty(self) -> None:
        with pytest.raises(UndecodableImageError, match="empty"):
            decode(b"")

    def test_bytes(self) -> None:
        data = encoded(photograph())
        assert decode(data, limits=DecodeLimits(max_bytes=len(data))).size == (23, 17)
        with pytest.raises(ImageTooLargeError, match=f"limit of {len(data) - 1}"):
            decode(data, limits=DecodeLimits(max_bytes=len(data) - 1))

    def test_side_and_pixels(self) -> None:
        data = encoded(photograph())
        assert decode(data, limits=DecodeLimits(max_side=23, max_pixels=23 * 17)).size == (23, 17)
        with pytest.raises(ImageTooLargeError, match="limit of 22 a side"):
            decode(data, limits=DecodeLimits(max_side=22))
        with pytest.raises(ImageTooLargeError, match="limit of 390 in all"):
            decode(data, limits=DecodeLimits(max_pixels=390))

    def test_size_is_checked_before_pixels_are_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(image: Image.Image) -> None:
            raise AssertionError("pixels were decoded")

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ImageTooLargeError):
            decode(encoded(Image.new("1", (300, 300)), "TIFF"), limits=DecodeLimits(max_side=100))

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize(("width", "height"), [(16_385, 1), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2)])
    def test_bombs(self, width: int, height: int) -> None:
        header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        chunk = b"IHDR" + header
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data += encoded(photograph())[33:]
        with pytest.raises(ImageTooLargeError):
            decode(data)

    def test_memory_error_is_typed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(image: Image.Image) -> None:
            raise MemoryError

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ImageTooLargeError, match="MemoryError"):
            decode(encoded(photograph(), "BMP"))

    def test_jpeg_of_many_scans(self) -> None:
        bomb = hostile.jpeg_of_scans(64, 200)
        assert strip_metadata(bomb).scans > 200
        assert decode(hostile.jpeg_of_scans(64, 1)).size == (64, 64)
        with pytest.raises(ImageTooLargeError, match="scans"):
            decode(bomb)

    def test_bytes_after_the_end_of_a_jpeg_are_not_scans(self) -> None:
        data = encoded(photograph(), "JPEG") + b"\xff\xda" * 500
        assert strip_metadata(data).scans == 1
        assert decode(data).size == (23, 17)

    def test_jpeg_of_many_segments(self) -> None:
        data = encoded(photograph(), "JPEG")
        with pytest.raises(UndecodableImageError, match="segments"):
            decode(data[:2] + b"\xff\xe5\x00\x02" * 20_000 + data[2:])

    def test_long_comments_of_a_gif_do_not_reach_the_decoder(self) -> None:
        data = encoded(photograph(), "GIF")
        start = data.index(b"\x2c\x00\x00\x00\x00")
        comment = b"!\xfe" + (b"\xff" + b"a" * 255) * 4000 + b"\x00"
        assert len(strip_metadata(data[:start] + comment + data[start:]).data) <= len(data)
        assert np.array_equal(pixels(decode(data[:start] + comment + data[start:])), pixels(decode(data)))

    def test_tags_of_a_tiff_that_share_bytes(self) -> None:
        data = bytearray(encoded(photograph(), "TIFF"))
        (offset,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, offset)
        entries = bytes(data[offset + 2 : offset + 2 + 12 * count])
        entries += b"".join(struct.pack("<HHII", 40_000 + i, 1, 300, 8) for i in range(50))
        struct.pack_into("<I", data, 4, len(data))
        with pytest.raises(UndecodableImageError, match="tags"):
            decode(bytes(data) + struct.pack("<H", count + 50) + entries + bytes(4))

    def test_big_tiff(self) -> None:
        with pytest.raises(UndecodableImageError, match="BigTIFF"):
            decode(encoded(photograph(), "TIFF", big_tiff=True))

    @pytest.mark.parametrize("name", ["max_bytes", "max_pixels", "max_side", "max_scans", "max_buffer"])
    @pytest.mark.parametrize("value", [0, -1, True, 1.5])
    def test_limits_are_positive(self, name: str, value: Any) -> None:
        with pytest.raises(DecodeLimitsError, match=name):
            DecodeLimits(**{name: value})

    def test_file_is_read_up_to_the_limit(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"12345")
        assert read_bytes(path, limits=DecodeLimits(max_bytes=5)) == b"12345"
        with pytest.raises(ImageTooLargeError, match="more than 4 bytes"):
            read_bytes(path, limits=DecodeLimits(max_bytes=4))

    @pytest.mark.parametrize("name", ["absent.png", ".", "x" * 300, "a\0b"])
    def test_file_that_cannot_be_read(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UndecodableImageError, match="cannot be read"):
            read_bytes(tmp_path / name)


# Pillow warns of odd metadata before it decides.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
class TestDamage:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_cut_files(self, kind: str) -> None:
        data = encoded(photograph(64, 48), kind)
        for length in range(1, len(data) // 2, max(1, len(data) // 60)):
            with pytest.raises(UndecodableImageError):
                decode(data[:length])

    def test_message_names_the_cause_and_the_remedy(self) -> None:
        data = encoded(Image.effect_noise((64, 64), 50), "JPEG")
        with pytest.raises(UndecodableImageError, match=r"truncated.*intact"):
            decode(data[: len(data) // 2])

    @pytest.mark.parametrize("kind", FORMATS)
    def test_mutated_files_raise_nothing_else(self, kind: str) -> None:
        generator = np.random.default_rng(list(kind.encode()))
        options: dict[str, Any] = {"exif": hostile.exif_of(3)} if kind in {"JPEG", "PNG", "WEBP", "TIFF"} else {}
        whole = np.frombuffer(encoded(photograph(), kind, **options), dtype=np.uint8)
        for _ in range(150):
            data = whole.copy()
            # Headers are short: half of the changes go there.
            reach = len(data) if generator.random() < 0.5 else min(len(data), 64)
            for place in generator.integers(0, reach, generator.integers(1, 6)):
                data[place] = generator.integers(0, 256)
            try:
                image = decode(data.tobytes(), limits=DecodeLimits(max_pixels=10**6))
            except UndecodableImageError:
                continue
            assert image.mode == "RGB"

    @pytest.mark.parametrize("error", [OSError, SyntaxError, struct.error, zlib.error, EOFError, KeyError, TypeError])
    def test_whatever_a_decoder_raises(self, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
        def fail(image: Image.Image) -> None:
            raise error("broken")

        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(UndecodableImageError, match="broken"):
            decode(encoded(photograph(), "BMP"))

    def test_errors_are_hardrank_errors(self) -> None:
        assert issubclass(UndecodableImageError, HardrankError)
        assert issubclass(PreprocessingError, HardrankError)


class TestSizes:
    def test_json_and_back(self) -> None:
        sizes = Preprocessing(resize=72, crop=64)
        assert asdict(sizes) == sizes.to_dict()
        assert sizes.to_dict() == {"resize": 72, "crop": 64, "fit": "square", "interpolation": "bilinear"}
        assert Preprocessing.from_dict(json.loads(json.dumps(sizes.to_dict()))) == sizes
        assert Preprocessing.from_dict({"resize": 72, "crop": 64}) == sizes
        other = Preprocessing(resize=72, crop=64, fit=Fit.SHORTEST, interpolation=Interpolation.BICUBIC)
        assert Preprocessing.from_dict(json.loads(json.dumps(other.to_dict()))) == other

    @pytest.mark.parametrize("values", [{"fit": "longest"}, {"interpolation": "cubic"}, {"fit": None}])
    def test_unknown_fit_or_interpolation(self, values: dict[str, Any]) -> None:
        with pytest.raises(PreprocessingError, match=next(iter(values))):
            Preprocessing(resize=8, crop=8, **values)

    @pytest.mark.parametrize(
        ("resize", "crop", "message"),
        [
            (64, 65, "larger than resize"),
            (0, 0, "resize is 0"),
            (8, 0, "crop is 0"),
            (8, -1, "crop is -1"),
            (8.0, 8, "resize is 8.0"),
            (8, True, "crop is True"),
            ("8", 8, "resize is '8'"),
            (5000, 8, "at most 4096"),
        ],
    )
    def test_invalid_sizes(self, resize: Any, crop: Any, message: str) -> None:
        with pytest.raises(PreprocessingError, match=message):
            Preprocessing(resize=resize, crop=crop)

    @pytest.mark.parametrize("values", [{}, {"resize": 8}, {"resize": 8, "crop": 8, "mean": 0}])
    def test_fields_that_are_unknown_or_missing(self, values: dict[str, Any]) -> None:
        with pytest.raises(PreprocessingError, match="exactly"):
            Preprocessing.from_dict(values)

    @pytest.mark.parametrize(("side", "crop"), [(8, 8), (8, 4), (9, 4), (8, 5), (1, 1)])
    def test_center_crop_against_a_loop(self, side: int, crop: int) -> None:
        array = np.arange(2 * 3 * side * side).reshape(2, 3, side, side)
        cropped = center_crop(array, crop)
        start = (side - crop) // 2
        for row in range(crop):
            for column in range(crop):
                assert np.array_equal(cropped[:, :, row, column], array[:, :, start + row, start + column])
        assert cropped.shape == (2, 3, crop, crop)

    @pytest.mark.parametrize(("shape", "crop"), [((3, 4, 4), 5), ((3, 4, 4), 0), ((3, 4, 5), 2)])
    def test_invalid_crops(self, shape: tuple[int, ...], crop: int) -> None:
        with pytest.raises(PreprocessingError, match="crop"):
            center_crop(np.zeros(shape), crop)

    def test_unit_is_the_value_over_255(self) -> None:
        values = np.arange(256, dtype=np.uint8)
        unit = to_unit(values)
        assert unit.dtype == np.float32
        assert unit.tolist() == [float(np.float32(value) / np.float32(255)) for value in range(256)]

    def test_square_is_antialiased(self) -> None:
        stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (64, 32)))
        # Every second row alone would give one color; the mean of both is gray, save where the border cuts the filter.
        assert np.abs(to_square(stripes, Preprocessing(resize=8, crop=8)).astype(int) - 127.5).max() < 5

    @pytest.mark.parametrize("fit", Fit)
    @pytest.mark.parametrize("interpolation", Interpolation)
    def test_square_of_the_same_size_is_the_image(self, fit: Fit, interpolation: Interpolation) -> None:
        pre = Preprocessing(resize=16, crop=16, fit=fit, interpolation=interpolation)
        square = to_square(photograph(16, 16), pre)
        assert square.shape == (3, 16, 16)
        assert square.flags["C_CONTIGUOUS"]
        assert np.array_equal(square.transpose(1, 2, 0), pixels(photograph(16, 16)))

    @pytest.mark.parametrize(("width", "height"), [(48, 16), (16, 48), (17, 16)])
    def test_shortest_keeps_the_aspect_ratio(self, width: int, height: int) -> None:
        image = photograph(width, height)
        square = to_square(image, Preprocessing(resize=16, crop=16, fit=Fit.SHORTEST))
        left, top = (width - 16) // 2, (height - 16) // 2
        assert np.array_equal(square.transpose(1, 2, 0), pixels(image)[top : top + 16, left : left + 16])

    @pytest.mark.parametrize("size", [(16_384, 1), (1, 16_384), (1, 1)])
    def test_shortest_bounds_the_memory(self, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        resize, areas = Image.Image.resize, []

        def recorded(image: Image.Image, size: tuple[int, int], *options: Any) -> Image.Image:
            areas.append(size[0] * size[1])
            return resize(image, size, *options)

        monkeypatch.setattr(Image.Image, "resize", recorded)
        pre = Preprocessing(resize=512, crop=512, fit=Fit.SHORTEST)
        assert to_square(Image.new("RGB", size, (9, 8, 7)), pre).shape == (3, 512, 512)
        assert areas
        assert max(areas) <= 4 * 512**2

    @pytest.mark.parametrize("interpolation", Interpolation)
    def test_shortest_equals_timm(self, shared_dir: Path, interpolation: Interpolation) -> None:
        import torch
        from timm.data.transforms_factory import create_transform

        paths = sorted((shared_dir / "data" / "caltech101").rglob("*.jpg"))[::250]
        if not paths:
            pytest.skip("the photographs are absent")
        pre = Preprocessing(resize=110, crop=96, fit=Fit.SHORTEST, interpolation=interpolation)
        transform = create_transform(
            (3, 96, 96), interpolation=interpolation, crop_pct=96 / 110, mean=(0, 0, 0), std=(1, 1, 1)
        )
        for path in paths:
            image = decode(path.read_bytes())
            # torchvision may cut the larger half of an odd margin at the other side: compare the resized images too.
            resized = torch.from_numpy(to_unit(pixels(transform.transforms[0](image))))
            left, top = (resized.shape[1] - 110) // 2, (resized.shape[0] - 110) // 2
            square = to_unit(to_square(image, pre)).transpose(1, 2, 0)
            assert np.abs(resized[top : top + 110, left : left + 110].numpy() - square).max() <= 1e-3
            if resized.shape[0] % 2 == resized.shape[1] % 2 == 0:
                assert np.abs(transform(image).numpy() - to_unit(image_pixels(image, pre))).max() <= 1e-3

    @pytest.mark.parametrize("fit", list(Fit))
    @pytest.mark.parametrize("crop", [12, 9, 4])
    def test_image_pixels_are_the_center_of_the_square(self, fit: Fit, crop: int) -> None:
        pre = Preprocessing(resize=12, crop=crop, fit=fit)
        image = photograph(40, 23)
        assert np.array_equal(image_pixels(image, pre), center_crop(to_square(image, pre), crop))

    def test_prepare_equals_its_steps(self) -> None:
        sizes = Preprocessing(resize=12, crop=9)
        image = photograph()
        expected = pixels(image.resize((12, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[:, 1:10, 1:10] / 255
        prepared = prepare(encoded(image), sizes)
        assert prepared.dtype == np.float32
        assert np.array_equal(prepared, expected.astype(np.float32))
        assert np.array_equal(prepared, to_unit(image_pixels(image, sizes)))
        assert np.array_equal(prepared, to_unit(file_pixels(encoded(image), sizes)))
