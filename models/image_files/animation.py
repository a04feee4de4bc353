"""The later frames of an animation, each as an image file of its own.

A frame is complete by itself only while those before it are empty, that is wholly transparent: for those alone the
later frames are looked for.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hardrank.models.image_files.gif import GIF_BLOCK, MAX_GIF_BLOCKS
from hardrank.models.image_files.png import PNG_SIGNATURE
from hardrank.models.image_files.stripped_file import StructureLimitError, search_near

MAX_FRAMES: Final = 64
"""How many frames of an animation may be empty."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of an animation, as a file."""

    data: bytes
    canvas: tuple[int, int] | None = None
    """Width and height of the animation, if the file has only the frame's own pixels."""
    place: tuple[int, int] = (0, 0)
    """Left and top of the frame on the canvas."""


def later_frames(data: bytes) -> Iterator[Frame]:
    """Yield the frames after the first of a GIF, WebP or PNG, up to `MAX_FRAMES`; raises `StructureLimitError`."""
    frames: Iterator[Frame]
    if data.startswith(b"GIF8"):
        frames = islice(_gif_frames(data), 1, None)
    elif data.startswith(b"RIFF"):
        frames = islice(_webp_frames(data), 1, None)
    elif data.startswith(PNG_SIGNATURE):
        frames = _png_frames(data)
    else:
        return
    yield from islice(frames, MAX_FRAMES)


def _gif_frames(data: bytes) -> Iterator[Frame]:
    flags = data[10]
    start = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    head, control, position, blocks = data[:start], b"", start, 0
    while position < len(data):
        begin, kind = position, data[position]
        if kind == 0x21:  # extension
            position += 2
        elif kind == 0x2C and begin + 10 <= len(data):  # image: its palette, and the size of its codes
            local = data[begin + 9]
            position += 11 + (3 << ((local & 7) + 1) if local & 0x80 else 0)
        elif kind == 0x3B:
            return
        else:
            found = search_near(GIF_BLOCK, data, position)
            position = found.start() if found else len(data)
            continue
        while position < len(data) and data[position]:
            position += data[position] + 1
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                raise StructureLimitError(f"The GIF has more than {MAX_GIF_BLOCKS} blocks in its empty frames")
        position += 1
        if kind == 0x2C:
            yield Frame(data=head + control + data[begin:position] + b";")
            control = b""
        elif data[begin + 1 : begin + 2] == b"\xf9":
            control = data[begin:position]


def _webp_frames(data: bytes) -> Iterator[Frame]:
    head, position = [], 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        if kind in {b"VP8X", b"ANIM"}:
            chunk = data[position:end]
            # Without the flags of metadata, which are left out.
            plain = kind != b"VP8X" or len(chunk) < 10
            head.append(chunk if plain else chunk[:8] + bytes([chunk[8] & 0x12]) + chunk[9:])
        elif kind == b"ANMF":
            body = b"".join([b"WEBP", *head, data[position:end]])
            yield Frame(data=b"RIFF" + struct.pack("<I", len(body)) + body)
        position = end


def _png_frames(data: bytes) -> Iterator[Frame]:
    """Yield the frames that have pixels of their own (fdAT); the first one may be that of the file itself."""
    header, control = b"", b""
    # Parts of bytes are joined once: adding them one by one would copy all before, for minutes.
    palette: list[bytes] = []
    pixels: list[bytes] = []
    position, chunks = len(PNG_SIGNATURE), 0
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 12 + length
        chunks += 1
        if chunks > MAX_GIF_BLOCKS:
            raise StructureLimitError(f"The PNG has more than {MAX_GIF_BLOCKS} chunks in its empty frames")
        if kind == b"IHDR":
            header = body
        elif kind in {b"PLTE", b"tRNS"}:
            palette.append(_chunk(kind, body))
        elif kind in {b"fcTL", b"IEND"}:
            if pixels and len(control) >= 20 and len(header) == 13:
                yield _png_frame(header, control, [*palette, *pixels])
            control, pixels = body, []
            if kind == b"IEND":
                return
        elif kind == b"fdAT":
            pixels.append(_chunk(b"IDAT", body[4:]))


def _png_frame(header: bytes, control: bytes, chunks: list[bytes]) -> Frame:
    _, width, height, left, top = struct.unpack_from(">5I", control)
    size = struct.pack(">II", width, height)
    return Frame(
        data=b"".join([PNG_SIGNATURE, _chunk(b"IHDR", size + header[8:]), *chunks, _chunk(b"IEND", b"")]),
        canvas=struct.unpack_from(">II", header),
        place=(left, top),
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
