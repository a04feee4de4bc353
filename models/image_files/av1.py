"""Size and number of AV1 frames, read from the data itself: what an AVIF file says of them elsewhere may be less."""

from collections.abc import Iterator
from typing import Final

from hardrank.models.image_files.stripped_file import StructureLimitError

_MAX_UNITS: Final = 10_000
_MAX_FRAMES: Final = 16
"""An image is one frame, or one for each of up to four layers. Frames that are not shown cost as much as others."""
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6


def largest_frame(data: bytes) -> tuple[int, int] | None:
    """Return the largest width and height of the frames of AV1 data, the decoder's to allocate; None if it has none.

    Raises `StructureLimitError` for too many units or frames, `ValueError` or `IndexError` for damaged ones.
    """
    units = list(_units(data))
    frames = sum(kind in {_FRAME_HEADER, _FRAME} for kind, _ in units)
    if frames > _MAX_FRAMES:
        raise StructureLimitError(f"The image has {frames} frames in one part")
    sizes = [_frame_size(body) for kind, body in units if kind == _SEQUENCE_HEADER]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the types and the first bytes of the units (AV1 specification, 5.3)."""
    place = 0
    for _ in range(_MAX_UNITS):
        if place >= len(data):
            return
        header = data[place]
        place += 2 if header & 0b100 else 1
        size = len(data) - place
        if header & 0b10:
            size, place = _leb128(data, place)
        yield header >> 3 & 0b1111, data[place : place + min(size, 1024)]
        place += size
    raise StructureLimitError(f"The image has more than {_MAX_UNITS} units of AV1 data")


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    """Return a number in groups of 7 bits, the lowest first, and where it ends (4.10.5)."""
    value = 0
    for number in range(8):
        byte = data[place + number]
        value |= (byte & 0x7F) << 7 * number
        if not byte & 0x80:
            return value, place + number + 1
    raise ValueError("a size of AV1 data has more than 8 bytes")


class _Bits:
    """Reads whole numbers of any number of bits."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("AV1 data ends too early")
        return self._value >> self._left & ((1 << count) - 1)


def _frame_size(body: bytes) -> tuple[int, int]:
    """Return the largest size that a sequence header allows (5.5.1)."""
    bits = _Bits(body)
    bits.read(4)
    if bits.read(1):  # the short header of a still picture
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    """Skip timing (5.5.3), decoder model (5.5.4) and operating points."""
    delay_bits = 0
    if bits.read(1):
        bits.read(64)
        if bits.read(1):
            zeros = 0
            while not bits.read(1):
                zeros += 1
            bits.read(zeros)
        if bits.read(1):
            delay_bits = bits.read(5) + 1
            bits.read(42)
    delays = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if delays and bits.read(1):
            bits.read(4)
