"""Image files that are small but expensive to decode, built by hand."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, SAMPLE_FORMAT = 322, 323, 324, 325, 339


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def tiff(tags: Mapping[int, int | Sequence[int]], pixels: bytes = b"", header: bytes = b"II*\0") -> bytes:
    """Make a TIFF of tags with 32-bit values; the pixels begin at byte 8."""
    endian = "<" if header.startswith(b"II") else ">"
    body = header + struct.pack(f"{endian}I", 0) + pixels
    entries = []
    for number, value in sorted(tags.items()):
        values = [value] if isinstance(value, int) else list(value)
        packed = struct.pack(f"{endian}{len(values)}I", *values)
        if len(values) > 1:
            place = len(body)
            body += packed
            packed = struct.pack(f"{endian}I", place)
        entries.append(struct.pack(f"{endian}HHI", number, 4, len(values)) + packed)
    directory = struct.pack(f"{endian}H", len(entries)) + b"".join(entries) + bytes(4)
    return body[:4] + struct.pack(f"{endian}I", len(body)) + body[8:] + directory


def deflated_tiff(width: int, height: int, *, bits: int = 8, **tags: int) -> bytes:
    pixels = zlib.compress(bytes(width * height * bits // 8), 1)
    extra = {TILE_WIDTH: tags["tile"], TILE_HEIGHT: tags["tile"]} if "tile" in tags else {ROWS_PER_STRIP: height}
    places = (TILE_OFFSETS, TILE_SIZES) if "tile" in tags else (STRIP_OFFSETS, STRIP_SIZES)
    return tiff(
        {
            WIDTH: width, HEIGHT: height, BITS: bits, COMPRESSION: 8, PHOTOMETRIC: 1, SAMPLES: 1,
            SAMPLE_FORMAT: tags.get("sample_format", 1), places[0]: 8, places[1]: len(pixels), **extra,
        },
        pixels,
    )  # fmt: skip


def tiff_of_one_large_tile(side: int = 32_000) -> bytes:
    return deflated_tiff(16, 16, tile=side)


def tiff_of_many_strips(count: int = 3_000_000) -> bytes:
    tags = {WIDTH: 16, HEIGHT: 16, BITS: 8, COMPRESSION: 1, PHOTOMETRIC: 1, SAMPLES: 1, ROWS_PER_STRIP: 1}
    return tiff({**tags, STRIP_OFFSETS: [8] * count, STRIP_SIZES: [16] * 16}, bytes(16))


def tiff_of_unknown_tags(count: int = 15_000) -> bytes:
    tags = {WIDTH: 16, HEIGHT: 16, BITS: 8, COMPRESSION: 5, PHOTOMETRIC: 1, SAMPLES: 1, ROWS_PER_STRIP: 16}
    unknown = {40_000 + number: 1 for number in range(count)}
    packed = encoded(Image.new("L", (16, 16)), "TIFF", compression="tiff_lzw")[8:100]
    return tiff({**tags, STRIP_OFFSETS: 8, STRIP_SIZES: len(packed), **unknown}, packed)


def tiff_of_damaged_fax(rows: int = 10_000) -> bytes:
    """Make a fax whose every row is wrong, so that libtiff has a warning for each."""
    tags = {WIDTH: 64, HEIGHT: rows, BITS: 1, COMPRESSION: 3, PHOTOMETRIC: 1, SAMPLES: 1, ROWS_PER_STRIP: rows}
    fax = b"\x00\x1a\x35\x77" * rows
    return tiff({**tags, STRIP_OFFSETS: 8, STRIP_SIZES: len(fax)}, fax)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    data = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + data[-2:]


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_with(before: bytes, image: Image.Image | None = None) -> bytes:
    """Make a JPEG with bytes between its start and its first segment."""
    data = encoded(image or Image.new("RGB", (16, 16)), "JPEG")
    return data[:2] + before + data[2:]


def jpeg_of_tables(segments: int = 480) -> bytes:
    """Make a JPEG with a thousand quantization tables in each segment, which Pillow reads in Python."""
    return jpeg_with(jpeg_segment(0xDB, (b"\0" + bytes([1]) * 64) * 1008) * segments)


def tiff_of_small_strips(height: int = 16_384, planes: int = 4) -> bytes:
    """Make an uncompressed TIFF of strips of one byte, which Pillow decodes one by one."""
    count = height * planes
    tags = {WIDTH: 1, HEIGHT: height, BITS: 8, COMPRESSION: 1, PHOTOMETRIC: 2, SAMPLES: planes, ROWS_PER_STRIP: 1}
    return tiff({**tags, PLANAR: 2, STRIP_OFFSETS: [8] * count, STRIP_SIZES: [1] * count}, bytes(16))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(chunks: bytes, image: Image.Image) -> bytes:
    data = encoded(image, "PNG")
    return data[:33] + chunks + data[33:]


def empty_frames(side: int, count: int) -> bytes:
    """Make an animated PNG whose frames are all transparent."""
    frames = [Image.new("RGBA", (side, side), (number, 0, 0, 0)) for number in range(count)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


def frame_in_chunks(count: int, size: int) -> bytes:
    """Make an animated PNG whose first frame is empty, and whose second is in `count` chunks of `size` bytes."""

    def control(number: int) -> bytes:
        return png_chunk(b"fcTL", struct.pack(">5I2H2B", number, 1, 1, 0, 0, 1, 1, 0, 0))

    chunks = [
        png_chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 8, 6, 0, 0, 0)),
        png_chunk(b"acTL", struct.pack(">2I", 2, 0)),
    ]
    chunks += [control(0), png_chunk(b"IDAT", zlib.compress(bytes(5))), control(1)]
    chunks += [png_chunk(b"fdAT", bytes(size))] * count
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, png_chunk(b"IEND", b"")])


def gif_frames(later: bytes, *, count: int = 1, start: bytes = b"") -> bytes:
    """Make a GIF with an empty frame of one pixel, then `count` times other bytes."""
    return (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + start + _TRANSPARENT + _gif_image(1, 1)
        + later * count + b";"
    )  # fmt: skip


def empty_gif_frame(side: int) -> bytes:
    """Make a transparent frame for `gif_frames`."""
    data = encoded(Image.new("P", (side, side)), "GIF")
    return _TRANSPARENT + data[data.index(b"\x2c" + struct.pack("<4H", 0, 0, side, side)) : -1]


def gif_of_controls(count: int = 49_000) -> bytes:
    data = encoded(Image.new("P", (16, 16)), "GIF")
    start = data.index(b"\x2c")
    return data[:start] + _TRANSPARENT * count + data[start:]


_TRANSPARENT = b"\x21\xf9\x04\x01" + bytes(4)


def _gif_image(width: int, height: int) -> bytes:
    return b"\x2c" + struct.pack("<4HB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"


def jpeg2000_with(coding: bytes, *, in_tile: bool = False, **options: Any) -> bytes:
    """Make a JPEG 2000 file with another segment in its main header, or in that of its first tile."""
    data = encoded(Image.new("L", (200, 200)), "JPEG2000", no_jp2=True, **options)
    tile = data.index(b"\xff\x90")
    if not in_tile:
        return data[:tile] + coding + data[tile:]
    length = int.from_bytes(data[tile + 6 : tile + 10], "big") + len(coding)
    head = data[tile : tile + 6] + length.to_bytes(4, "big") + data[tile + 10 : tile + 12]
    return data[:tile] + head + coding + data[tile + 12 :]


SMALL_PRECINCTS = struct.pack(">HH", 0xFF52, 18) + b"\1\0\0\1\0\5\4\4\0\1" + bytes([0x77] * 5 + [0x44])
SMALL_PRECINCTS_OF_COMPONENT = struct.pack(">HH", 0xFF53, 15) + b"\0\1\5\4\4\0\1" + bytes([0x77] * 5 + [0x44])


def webp_canvas(width: int, height: int) -> bytes:
    """Make a WebP with a canvas of the given size and one small frame."""
    frame = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    extended = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    head = bytes(6) + (15).to_bytes(3, "little") * 2 + bytes(4)
    body = b"WEBP" + _riff(b"VP8X", extended) + _riff(b"ANIM", bytes(6)) + _riff(b"ANMF", head + frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_canvas(width: int, height: int, *, frame: tuple[int, int] | None = None) -> bytes:
    frame = frame or (width, height)
    control = b"\x21\xf9\x04" + bytes([0b1000]) + bytes(4)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + control + _gif_image(*frame) + b";"


def rle_bmp(width: int, height: int, pixels: bytes) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + info + palette + pixels


def _riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def avif_that_tells(width: int, height: int, data: bytes) -> bytes:
    """Change the size that the boxes of an AVIF tell of its image."""
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]


def avif_of_frames(count: int) -> bytes:
    """Make an AVIF whose image is followed by further frames, which are empty."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "AVIF"))
    # The only extent of the only item, and the box that ends the file.
    for place in (data.index(b"iloc") + 22, data.index(b"mdat") - 4):
        (length,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, length + 2 * count)
    return bytes(data) + bytes((6 << 3 | 2, 0)) * count


def gif_of_blocks(count: int = 15_000_000) -> bytes:
    """Make a GIF whose first comment is in `count` blocks of one byte."""
    data = encoded(Image.new("P", (16, 16)), "GIF")
    start = data.index(b"\x2c")
    return data[:start] + b"\x21\xfe" + b"\1a" * count + b"\0" + data[start:]


def heic_of_boxes(groups: int = 1900, parts: int = 2000) -> bytes:
    """Make a HEIC of empty boxes in boxes."""
    empty = struct.pack(">I4s", 8, b"free") * parts
    group = struct.pack(">I4sI4s", 16 + len(empty), b"iprp", 8 + len(empty), b"ipco") + empty
    return struct.pack(">I4s4sI", 16, b"ftyp", b"heic", 0) + struct.pack(
        ">I4sI", 12 + groups * len(group), b"meta", 0
    ) + groups * group  # fmt: skip


def jpeg2000_of_boxes(groups: int = 1250, parts: int = 3000) -> bytes:
    """Make a JPEG 2000 file of empty boxes in boxes."""
    data = encoded(Image.new("L", (128, 128)), "JPEG2000")
    group = struct.pack(">I4s", 8 + 8 * parts, b"jp2h") + struct.pack(">I4s", 8, b"free") * parts
    return data[:12] + groups * group + data[12:]


def jpeg2000_of_precincts(segments: int = 480, precincts: int = 65_523) -> bytes:
    """Make a JPEG 2000 file that tells the sizes of many precincts, again and again."""
    data = encoded(Image.new("L", (128, 128)), "JPEG2000", no_jp2=True)
    place = data.index(b"\xff\x52")
    coding = struct.pack(">HHB", 0xFF52, 12 + precincts, 1) + data[place + 5 : place + 14] + b"\x77" * precincts
    return data[:place] + segments * coding + data[place:]
