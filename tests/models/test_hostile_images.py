"""Image files built to exhaust memory, CPU or the log: refused from their headers, or decoded at little cost."""

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardrank.models import decoding
from hardrank.models.decode_limits import CostlyImageError, DecodeLimits, ImageTooLargeError, UndecodableImageError
from hardrank.models.decoding import decode, decode_file, to_rgb
from hardrank.models.image_files.animation import Frame, later_frames
from hardrank.models.image_files.strip import strip_metadata
from hardrank.models.image_files.stripped_file import StrippedFile
from tests.models import hostile_images as hostile

GRADIENT = Image.fromarray(np.arange(40 * 24 * 3, dtype=np.uint32).reshape(24, 40, 3).astype(np.uint8))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if Pillow opens a file."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the file reached Pillow")

    monkeypatch.setattr("PIL.Image.open", fail)


@pytest.mark.usefixtures("no_decoding")
class TestRefusedFromTheHeaders:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: hostile.tiff_of_one_large_tile(8000), "tiles of 8000×8000 pixels.*limit of 2048"),
            (lambda: hostile.tiff_of_many_strips(200_000), "200000 values in tag 273.*limit of 65536"),
            (hostile.tiff_of_unknown_tags, "tags, above the limit of 1000"),
            (lambda: hostile.deflated_tiff(8000, 8000), "8000×8000.*limit of 50000000"),
            (lambda: hostile.jpeg_of_scans(64, 200), "scans, above the limit of 100"),
            (lambda: hostile.png_with(hostile.png_chunk(b"IDAT", b"") * 1500, GRADIENT), "more than 1017 chunks"),
            (lambda: hostile.frame_in_chunks(20_000, 1500), "more than 10000 chunks"),
            (lambda: hostile.gif_of_blocks(200_000), "more than 100000 blocks before its first frame"),
            (lambda: hostile.heic_of_boxes(200, 100), "more than 10000 boxes"),
            (lambda: hostile.jpeg_with(b"\xff" * 1_000_000), "fill bytes"),
            (lambda: hostile.jpeg_with(b"\xff\0" * 1_000_000), "fill bytes"),
            (lambda: hostile.jpeg_with(bytes(1_000_000)), "65536 bytes between two of its parts"),
            (lambda: hostile.gif_frames(b"", start=bytes(1_000_000)), "65536 bytes between two of its parts"),
            (lambda: hostile.webp_canvas(2**24, 16), "16777216×16.*limit of 16384"),
            (lambda: hostile.webp_canvas(16_000, 16_000), "16000×16000.*limit of 50000000"),
            (lambda: hostile.gif_canvas(12_000, 12_000), "12000×12000.*limit of 50000000"),
            (lambda: hostile.gif_canvas(8, 8, frame=(60_000, 2)), "60000×8.*limit of 16384"),
            (lambda: hostile.rle_bmp(3000, 3000, b"\xff\0" * 40_000), "run-length encoded.*4000000"),
            (lambda: hostile.rle_bmp(16, 16, b"\0\0" * 5_000_000), "run-length encoded.*4000000"),
            (lambda: hostile.jpeg2000_with(b"", codeblock_size=(4, 4)), "code-blocks of less than 256"),
            (lambda: hostile.jpeg2000_with(hostile.SMALL_PRECINCTS), "code-blocks of less than 256"),
            (lambda: hostile.jpeg2000_with(hostile.SMALL_PRECINCTS, in_tile=True), "code-blocks of less than 256"),
            (lambda: hostile.jpeg2000_with(hostile.SMALL_PRECINCTS_OF_COMPONENT), "code-blocks of less than 256"),
            (lambda: hostile.jpeg2000_with(struct.pack(">HH", 0xFF64, 2) * 60_000), "50000 header segments"),
        ],
    )
    def test_cause_and_limit_are_named(self, make: Callable[[], bytes], message: str) -> None:
        with pytest.raises(ImageTooLargeError, match=message):
            decode(make())

    def test_strip_that_exceeds_the_buffer(self) -> None:
        data = hostile.deflated_tiff(100, 100, bits=32, sample_format=3)
        with pytest.raises(ImageTooLargeError, match="40000 bytes, above the limit of 39999"):
            decode(data, limits=DecodeLimits(max_buffer=39_999))

    def test_strips_beyond_the_size_of_an_uncompressed_tiff(self) -> None:
        with pytest.raises(UndecodableImageError, match="5000 strips or tiles, but its size needs 16"):
            decode(hostile.tiff_of_many_strips(5000))

    def test_one_tile_per_pixel(self) -> None:
        tags = {hostile.WIDTH: 1000, hostile.HEIGHT: 1000, hostile.TILE_WIDTH: 1, hostile.TILE_HEIGHT: 1}
        with pytest.raises(ImageTooLargeError, match="1000000 strips or tiles"):
            decode(hostile.tiff({**tags, hostile.TILE_OFFSETS: 8}))

    @pytest.mark.parametrize("compression", [6, 32809, 34676, 34925])
    def test_tiff_compressions_with_unbounded_memory(self, compression: int) -> None:
        with pytest.raises(UndecodableImageError, match=f"compression {compression} is not supported"):
            decode(hostile.tiff({hostile.WIDTH: 9, hostile.HEIGHT: 9, hostile.COMPRESSION: compression}))

    @pytest.mark.parametrize("header", [b"II*\0", b"MM\0*", b"II\0*", b"MM*\0"])
    def test_all_headers_that_pillow_accepts(self, header: bytes) -> None:
        with pytest.raises(ImageTooLargeError, match="70000×1"):
            decode(hostile.tiff({hostile.WIDTH: 70_000, hostile.HEIGHT: 1, hostile.STRIP_OFFSETS: 8}, header=header))

    def test_scans_of_a_jpeg_inside_a_tiff(self) -> None:
        jpeg = hostile.jpeg_of_scans(64, 200)
        tags = {hostile.WIDTH: 64, hostile.HEIGHT: 64, hostile.BITS: 8, hostile.COMPRESSION: 7, hostile.PHOTOMETRIC: 1}
        data = hostile.tiff({**tags, hostile.STRIP_OFFSETS: 8, hostile.STRIP_SIZES: len(jpeg)}, jpeg)
        with pytest.raises(ImageTooLargeError, match="scans, above the limit of 100"):
            decode(data)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(
    "make",
    [
        hostile.jpeg_of_tables,
        lambda: hostile.png_with(
            hostile.png_chunk(b"IDAT", b"") * 6000 + hostile.png_chunk(b"tEXt", bytes(6_000_000)), GRADIENT
        ),
        lambda: hostile.frame_in_chunks(6000, 900),
        hostile.gif_of_controls,
        hostile.tiff_of_small_strips,
        lambda: hostile.encoded(GRADIENT, "AVIF"),
        lambda: hostile.encoded(GRADIENT, "JPEG2000"),
    ],
)
def test_what_keeps_the_interpreter_busy_is_expensive_whatever_its_pixels(make: Callable[[], bytes]) -> None:
    """Their headers are not even read where other threads would wait, or a crash would end the server."""
    with pytest.raises(CostlyImageError):
        decode_file(make(), max_work=10**9)


@pytest.mark.parametrize("options", [{}, {"tile_size": (16, 16)}, {"codeblock_size": (16, 16)}, {"num_resolutions": 1}])
def test_ordinary_code_blocks_of_a_jpeg_2000_file(options: dict[str, Any]) -> None:
    image = Image.effect_noise((70, 50), 60)
    data = hostile.encoded(image, "JPEG2000", irreversible=False, **options)
    assert decode(data).tobytes() == image.convert("RGB").tobytes()


def test_later_frames_of_a_gif_count_with_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = hostile.gif_frames(hostile.empty_gif_frame(1000), count=60)
    loaded = 0

    def load(image: Image.Image, frame: Frame) -> Image.Image | None:
        nonlocal loaded
        loaded += 1
        return load_frame(image, frame)

    load_frame = decoding._load_frame
    monkeypatch.setattr(decoding, "_load_frame", load)
    with pytest.raises(CostlyImageError):
        decode_file(data, max_work=2_999_999)
    assert loaded == 2
    assert decode_file(data, limits=DecodeLimits(max_pixels=5_000_000)).width == 1
    assert loaded == 2 + 5


def test_the_time_to_find_later_frames_of_a_png_is_linear() -> None:
    def seconds(chunks: int) -> float:
        data, taken = hostile.frame_in_chunks(chunks, 700), []
        for _ in range(3):
            began = time.thread_time()
            assert len(list(later_frames(data))) == 1
            taken.append(time.thread_time() - began)
        return min(taken)

    assert seconds(40_000) < 5 * 20 * seconds(2000)


def test_bytes_between_the_frames_of_a_gif_are_limited() -> None:
    frame = hostile.empty_gif_frame(1)
    assert decode(hostile.gif_frames(bytes(60_000) + frame)).size == (1, 1)
    with pytest.raises(ImageTooLargeError, match="65536 bytes between two of its parts"):
        decode(hostile.gif_frames(bytes(70_000) + frame))


def test_only_the_first_profile_of_a_png_is_decompressed() -> None:
    damaged = hostile.png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1000))[:-4] + b"\xff" * 4)
    valid = hostile.png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"profile"))
    assert strip_metadata(hostile.png_with(valid, GRADIENT)).icc == b"profile"
    assert strip_metadata(hostile.png_with(damaged * 9 + valid, GRADIENT)).icc == b""


@pytest.mark.parametrize("fill", [b"\xff", b"\xff\0", b"\0", b"\xff\xd0", b"junk"])
def test_bytes_between_the_segments_of_a_jpeg_do_not_reach_pillow(fill: bytes) -> None:
    """Pillow would read them one by one."""
    image = Image.effect_noise((24, 16), 60).convert("RGB")
    plain = hostile.encoded(image, "JPEG")
    data = hostile.jpeg_with(fill * 10_000, image)
    assert strip_metadata(data).data == strip_metadata(plain).data
    assert decode(data).tobytes() == decode(plain).tobytes()


def test_scans_times_pixels_are_limited() -> None:
    data = hostile.jpeg_of_scans(512, 50)
    assert decode(data).size == (512, 512)
    with pytest.raises(ImageTooLargeError, match=f"512×512 pixels, above the limit of {20 * 512 * 512} pixels"):
        decode(data, limits=DecodeLimits(max_pixels=512 * 512))


class TestIgnoredMetadata:
    """What does not change pixels never reaches the decoder."""

    def test_compressed_text_and_profiles_of_a_png(self) -> None:
        bomb = zlib.compress(bytes(50_000_000), 9)
        chunks = hostile.png_chunk(b"zTXt", b"a\0\0" + bomb) + hostile.png_chunk(b"iCCP", b"a\0\0" + bomb)
        chunks += hostile.png_chunk(b"iTXt", b"a\0\1\0\0\0" + bomb) + hostile.png_chunk(b"tEXt", b"a\0" + bytes(10**6))
        data = hostile.png_with(chunks, GRADIENT)
        plain = hostile.encoded(GRADIENT, "PNG")
        assert strip_metadata(data).data == strip_metadata(plain).data
        assert np.array_equal(np.asarray(decode(data)), np.asarray(GRADIENT))

    def test_later_frames_of_a_webp(self) -> None:
        frames = [Image.new("RGB", (32, 32), (n % 256, n // 256, 0)) for n in range(300)]
        data = hostile.encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        assert len(strip_metadata(data).data) < 500 < len(data)
        assert decode(data).getpixel((5, 5)) == (0, 0, 0)

    def test_later_frames_of_a_png(self) -> None:
        frames = [Image.new("RGB", (32, 32), (n, 0, 0)) for n in range(100)]
        data = hostile.encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
        assert b"fdAT" in data
        assert b"fdAT" not in strip_metadata(data).data
        assert np.array_equal(np.asarray(decode(data)), np.asarray(frames[0]))

    def test_unknown_tags_of_a_tiff(self) -> None:
        data = hostile.tiff_of_unknown_tags(900)
        assert decode(data).size == (16, 16)
        assert len(strip_metadata(data).data) < len(data) + 200

    @pytest.mark.parametrize("start", [b"!\xfe" + b"\x01a" * 200_000 + b"\0", b"!\xf9\0" * 200_000])
    def test_small_blocks_of_a_gif(self, start: bytes) -> None:
        data = hostile.encoded(GRADIENT, "GIF")
        place = data.index(b"\x2c\0\0\0\0")
        with pytest.raises(ImageTooLargeError, match="100000 blocks"):
            decode(data[:place] + start + data[place:])

    def test_bytes_between_the_blocks_of_a_gif(self) -> None:
        data = hostile.encoded(GRADIENT, "GIF")
        place = data.index(b"\x2c\0\0\0\0")
        assert np.array_equal(np.asarray(decode(data[:place] + bytes(60_000) + data[place:])), np.asarray(decode(data)))

    def test_many_chunks_of_a_webp(self) -> None:
        data = hostile.encoded(GRADIENT, "WEBP")
        with pytest.raises(ImageTooLargeError, match="more than 1156 chunks"):
            decode(data + b"JUNK\0\0\0\0" * 20_000)


class TestOrdinaryFiles:
    """Ordinary images decode to the same pixels as in Pillow."""

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "LAB"])
    def test_tiff(self, compression: str, mode: str) -> None:
        image = Image.new("LAB", (40, 24), (90, 20, 30)) if mode == "LAB" else GRADIENT.convert(mode)
        assert_as_in_pillow(hostile.encoded(image, "TIFF", compression=compression))

    @pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
    def test_fax(self, compression: str) -> None:
        assert_as_in_pillow(hostile.encoded(GRADIENT.convert("1"), "TIFF", compression=compression))

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("rows", [8, 24])
    def test_jpeg_in_tiff(self, mode: str, rows: int) -> None:
        data = hostile.encoded(
            GRADIENT.convert(mode), "TIFF", compression="jpeg", quality=90, strip_size=rows * 40 * 3, dpi=(300, 300)
        )
        assert_as_in_pillow(data)

    @pytest.mark.parametrize("tile", [16, 64, 256])
    def test_tiles(self, tile: int) -> None:
        pixels = zlib.compress(bytes(range(256)) * (tile * tile // 256))
        across, down = -(-40 // tile), -(-24 // tile)
        tags = {hostile.WIDTH: 40, hostile.HEIGHT: 24, hostile.BITS: 8, hostile.COMPRESSION: 8, hostile.PHOTOMETRIC: 1}
        places = {hostile.TILE_OFFSETS: [8] * (across * down), hostile.TILE_SIZES: [len(pixels)] * (across * down)}
        sides = {hostile.TILE_WIDTH: tile, hostile.TILE_HEIGHT: tile, hostile.SAMPLES: 1}
        assert_as_in_pillow(hostile.tiff({**tags, **sides, **places}, pixels))

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_animations_with_metadata(self, kind: str, mode: str) -> None:
        image = GRADIENT.convert(mode)
        exif = Image.Exif()
        exif[0x010E] = "a description"
        options = {"exif": exif.tobytes(), "icc_profile": b"profile", "lossless": True}
        assert_as_in_pillow(hostile.encoded(image, kind, save_all=True, append_images=[image.rotate(90)], **options))
        assert_as_in_pillow(hostile.encoded(image, kind, **options))

    @pytest.mark.parametrize("quality", [1, 60, 100])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_lossy_webp(self, quality: int, mode: str) -> None:
        assert_as_in_pillow(hostile.encoded(GRADIENT.convert(mode), "WEBP", quality=quality))

    def test_run_length_encoded_bmp(self) -> None:
        assert_as_in_pillow(hostile.rle_bmp(16, 4, (b"\x08\x11\x08\x77\0\0") * 4 + b"\0\1"))

    def test_large_transparent_image(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (1300, 1700, 4), dtype=np.uint8)
        image = Image.fromarray(noise)
        whole = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
        assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(whole))

    def test_large_float_image(self) -> None:
        values = np.random.default_rng(0).uniform(-1, 300, (1300, 1700)).astype(np.float32)
        expected = np.rint(np.clip(values.astype(np.float64), 0, None) / 65535 * 255).astype(np.uint8)
        assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 0], expected)


def assert_as_in_pillow(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(to_rgb(image))
    assert np.array_equal(np.asarray(decode(data)), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="the libtiff of Pillow is not a shared library")
@pytest.mark.parametrize("make", [lambda: hostile.tiff_of_unknown_tags(900), hostile.tiff_of_damaged_fax])
def test_decoders_write_nothing(make: Callable[[], bytes]) -> None:
    code = (
        "import sys\nfrom hardrank.models.decoding import UndecodableImageError, decode\n"
        "try:\n    decode(sys.stdin.buffer.read())\nexcept UndecodableImageError:\n    pass"
    )
    done = subprocess.run([sys.executable, "-c", code], input=make(), capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


MEMORY = """
import resource, sys
from hardrank.models.decode_limits import DecodeLimits, UndecodableImageError
from hardrank.models.decoding import decode
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(data)
except UndecodableImageError:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak memory of a process in KiB")
@pytest.mark.parametrize(
    ("make", "bytes_per_pixel"),
    [
        (lambda: hostile.tiff_of_one_large_tile(12_000), 0),
        (lambda: hostile.deflated_tiff(5000, 5000, bits=32, sample_format=3), 13),
        (lambda: hostile.webp_canvas(16_000, 16_000), 0),
    ],
)
def test_memory_is_bounded(make: Callable[[], bytes], bytes_per_pixel: int) -> None:
    data = make()
    done = subprocess.run([sys.executable, "-c", MEMORY], input=data, capture_output=True, check=True)
    assert int(done.stdout) * 1024 < bytes_per_pixel * 25_000_000 + 4 * len(data) + 64 * 2**20


def test_a_stripped_file_is_unchanged_if_nothing_is_known_of_it() -> None:
    assert strip_metadata(b"other bytes") == StrippedFile(data=b"other bytes")
