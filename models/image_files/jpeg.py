"""JPEG: metadata and the tables before the first scan."""

import re
from typing import Final

from hardrank.models.image_files.exif import EXIF_PREFIX
from hardrank.models.image_files.stripped_file import MAX_GAP, StrippedFile, StructureLimitError, search_near

_MAX_SEGMENTS: Final = 10_000
_MAX_HEADER: Final = 2**16
"""Bytes of tables before the first scan, which Pillow reads in Python; files have a few hundred."""
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A marker other than a stuffed byte, a restart marker or fill."""
_END, _SCAN, _APP1, _APP2 = 0xD9, 0xDA, 0xE1, 0xE2
_BASELINE: Final = {0xC0, 0xC1}
_ICC_PREFIX: Final = b"ICC_PROFILE\x00"
_METADATA: Final = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""APP0 (JFIF) and APP14 (Adobe) say how colors are stored; the other application segments and comments do not."""
_BARE: Final = {0xC8, 0xD8, 0xD9, *range(0xF0, 0xFE)}
"""Start, end and reserved markers have no length after them."""


def strip_jpeg(data: bytes) -> StrippedFile:
    """Keep tables and scans; raises `StructureLimitError` for too many segments or fill bytes."""
    # Pillow reads everything before the first scan byte by byte: only whole segments are kept of it.
    kept = [data[:2]]
    exif, scans, segments, header, kept_from, position = b"", 0, 0, 0, len(data), 2
    profile: dict[int, bytes] = {}
    baseline = False
    if data.count(b"\xff") > max(MAX_GAP, len(data) // 8):
        raise StructureLimitError("The JPEG consists of fill bytes for the most part")
    while match := _MARKER.search(data, position) if scans else search_near(_MARKER, data, position):
        marker = data[match.start() + 1]
        if marker == _END and scans:
            break
        scans += marker == _SCAN
        baseline = baseline or marker in _BASELINE
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise StructureLimitError(f"The JPEG has more than {_MAX_SEGMENTS} segments")
        body = match.end() + 2
        position = match.end()
        if marker not in _BARE:
            position += max(2, int.from_bytes(data[match.end() : body], "big"))
        if scans == 1 and marker == _SCAN:
            kept_from = match.start()
        elif not scans and marker not in _METADATA:
            kept.append(data[match.start() : position])
            header += position - match.start()
        if marker in _METADATA:
            if scans:
                kept.append(data[kept_from : match.start()])
                kept_from = position
            if marker == _APP1 and not exif and data.startswith(EXIF_PREFIX, body):
                exif = data[body:position]
            elif marker == _APP2 and data.startswith(_ICC_PREFIX, body):
                part = data[body + len(_ICC_PREFIX) : position]
                profile.setdefault(part[0] if part else 0, part[2:])
    kept.append(data[kept_from:])
    icc = b"".join(profile[number] for number in sorted(profile))
    return StrippedFile(
        data=b"".join(kept),
        exif=exif,
        icc=icc,
        scans=scans,
        sequential=baseline and scans == 1,
        slow=header > _MAX_HEADER,
    )
