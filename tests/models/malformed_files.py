"""Malformed image files: damaged valid files of every format, and small files that are expensive to decode."""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, features

from tests.models import hostile_images as hostile
from tests.models.hostile_images import encoded

_COSTLY_ONE_IN: Final = 200
"""One file in so many is expensive to decode, not damaged."""


def _picture(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@cache
def valid_files() -> Mapping[str, Sequence[bytes]]:
    """Return valid files by format, of many modes; of the formats that this installation can write."""
    image, others = _picture(1), [_picture(2), _picture(3)]
    clear = image.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "JPEG": [
            encoded(image, "JPEG", quality=80, exif=exif),
            encoded(image, "JPEG", progressive=True),
            encoded(image, "JPEG", icc_profile=_profile(), subsampling=0),
            encoded(image.convert("CMYK"), "JPEG"),
            encoded(image.convert("L"), "JPEG"),
        ],
        "PNG": [
            encoded(image, "PNG", icc_profile=_profile()),
            encoded(image.convert("P"), "PNG", transparency=3),
            encoded(clear, "PNG", exif=exif),
            encoded(image.convert("I;16"), "PNG"),
            encoded(image.convert("1"), "PNG"),
            hostile.empty_frames(20, 3),
            encoded(clear, "PNG", save_all=True, append_images=others),
        ],
        "WebP": [
            encoded(image, "WEBP", quality=70, exif=exif),
            encoded(clear, "WEBP", lossless=True),
            encoded(clear, "WEBP", save_all=True, append_images=others),
        ],
        "GIF": [
            encoded(image, "GIF", comment=b"comment"),
            encoded(image, "GIF", interlace=1),
            encoded(image, "GIF", save_all=True, append_images=others, loop=0, disposal=2),
        ],
        "BMP": [
            encoded(image, "BMP"),
            encoded(image.convert("P"), "BMP"),
            encoded(image.convert("1"), "BMP"),
            hostile.rle_bmp(60, 4, b"\x3c\1\0\0" * 3 + b"\x3c\2\0\1"),
        ],
        "TIFF": [
            encoded(image, "TIFF"),
            *(encoded(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")),
            encoded(image.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
            encoded(image.convert("I;16"), "TIFF", compression="tiff_lzw"),
            encoded(image.convert("CMYK"), "TIFF", compression="packbits"),
            encoded(image.convert("1"), "TIFF", compression="group4"),
            encoded(image.convert("1"), "TIFF", compression="group3"),
            encoded(clear, "TIFF", big_tiff=True),
            hostile.deflated_tiff(60, 40, tile=16),
            hostile.deflated_tiff(60, 40, bits=32, sample_format=3),
        ],
    }
    if features.check("avif"):
        files["AVIF"] = [
            encoded(image, "AVIF", speed=10),
            encoded(clear, "AVIF", speed=10, exif=exif),
            encoded(image, "AVIF", speed=10, save_all=True, append_images=others),
        ]
    if features.check("jpg_2000"):
        files["JPEG 2000"] = [
            encoded(image, "JPEG2000"),
            encoded(clear, "JPEG2000", quality_mode="rates", quality_layers=[20, 10]),
            encoded(image, "JPEG2000", no_jp2=True, tile_size=(32, 32)),
        ]
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return files
    register_heif_opener()
    files["HEIC"] = [encoded(image, "HEIF"), encoded(clear, "HEIF", quality=50)]
    return files


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def costly_files(side: int = 3000) -> Mapping[str, Callable[[], bytes]]:
    """Return the makers of small files that are expensive to decode, by name; the name begins with the format."""
    plain = Image.new("RGB", (side, side), (9, 99, 199))
    return {
        "TIFF of one large tile": hostile.tiff_of_one_large_tile,
        "TIFF of many strips": lambda: hostile.tiff_of_many_strips(300_000),
        "TIFF of unknown tags": hostile.tiff_of_unknown_tags,
        "TIFF of floats": lambda: hostile.deflated_tiff(side, side, bits=32, sample_format=3),
        "TIFF of a damaged fax": hostile.tiff_of_damaged_fax,
        "JPEG of scans": lambda: hostile.jpeg_of_scans(side, 60),
        "PNG of one color": lambda: encoded(plain, "PNG"),
        "PNG of a large text": lambda: hostile.png_with(hostile.png_chunk(b"zTXt", bytes(2_000_000)), _picture(1)),
        "PNG of empty frames": lambda: hostile.empty_frames(side // 6, 30),
        "PNG of many chunks": lambda: hostile.png_with(hostile.png_chunk(b"IDAT", b"") * 100_000, _picture(1)),
        "WebP of one color": lambda: encoded(plain, "WEBP", lossless=True, method=0),
        "WebP of a large canvas": lambda: hostile.webp_canvas(16_000, 16_000),
        "GIF of one color": lambda: encoded(plain.convert("P"), "GIF"),
        "GIF of a large canvas": lambda: hostile.gif_canvas(12_000, 12_000),
        "BMP, run-length encoded": lambda: hostile.rle_bmp(1900, 1900, b"\1\2" * 190_000),
    }


def damaged(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """Damage a file in one of nine random ways; `other` is a file to join it with."""
    result = bytearray(data)
    start = int(generator.integers(0, len(data)))
    match generator.integers(0, 9):
        case 0:  # bits
            for position in generator.integers(0, len(data), generator.integers(1, 20)):
                result[position] ^= 1 << int(generator.integers(0, 8))
        case 1:  # bytes of the header, with sizes and types
            for position in generator.integers(0, min(len(data), 64), generator.integers(1, 6)):
                result[position] = int(generator.integers(0, 256))
        case 2:  # truncated
            del result[start:]
        case 3:  # a piece removed
            del result[start : start + int(generator.integers(1, 200))]
        case 4:  # a piece duplicated
            result[start:start] = result[start : start + int(generator.integers(1, 200))]
        case 5:  # extreme numbers where a size may be, in either order of bytes
            number = int(generator.choice([0, 1, 2**16 - 1, 2**31 - 1, 2**32 - 1]))
            struct.pack_into(generator.choice(["<I", ">I"]), result, max(0, min(start, len(result) - 4)), number)
        case 6:  # two files joined
            result[start:] = other[int(generator.integers(0, len(other))) :]
        case 7:  # the header of one file and the rest of another
            end = int(generator.integers(4, 64))
            result[end:] = other[end:]
        case _:  # noise
            result[start : start + 64] = generator.bytes(64)
    return bytes(result)


def malformed_files(count: int, *, seed: int, costly_side: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield malformed files with their formats: in turn by format, most of them damaged once, others twice.

    Args:
        count: Number of files.
        seed: Seed of the damage.
        costly_side: Some of the files are of `costly_files` of this side, intact or damaged; 0: none.
    """
    generator = np.random.default_rng(seed)
    formats = valid_files()
    names = list(formats)
    every = [data for files in formats.values() for data in files]
    costly = list(costly_files(costly_side).items()) if costly_side else []
    for number in range(count):
        other = every[generator.integers(0, len(every))]
        if costly and number % _COSTLY_ONE_IN == 0:
            turn = number // _COSTLY_ONE_IN
            name, make = costly[turn % len(costly)]
            name, data = name.split()[0].strip(","), make()
            yield name, data if turn < len(costly) else damaged(data, other, generator)
            continue
        name = names[number % len(names)]
        files = formats[name]
        data = damaged(files[number // len(names) % len(files)], other, generator)
        if data and generator.random() < 0.3:
            data = damaged(data, other, generator)
        yield name, data
