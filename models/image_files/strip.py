"""Reduce image files to what decoding needs, and refuse structures that are expensive to decode.

Metadata parsers are the weakest part of a decoder: GIF comments are collected in quadratic time, text in a PNG is
compressed, and all tags of a TIFF may point at the same megabytes. So only the first frame and what its pixels need
reaches the decoder, and what decoding will cost is known from the headers. Nothing here decodes pixels, and the
time is linear in the length of the file. Malformed files raise `ValueError` or are passed on to the decoder.
"""

from collections.abc import Callable, Mapping

from hardrank.models.image_files.bmp import check_bmp
from hardrank.models.image_files.gif import strip_gif
from hardrank.models.image_files.jpeg import strip_jpeg
from hardrank.models.image_files.jpeg2000 import check_jpeg2000, is_jpeg2000
from hardrank.models.image_files.media import media_decoder, strip_media_file
from hardrank.models.image_files.png import PNG_SIGNATURE, strip_png
from hardrank.models.image_files.stripped_file import StrippedFile
from hardrank.models.image_files.tiff import strip_tiff
from hardrank.models.image_files.webp import strip_webp


def strip_metadata(data: bytes) -> StrippedFile:
    """Keep what decoding the first frame needs.

    Raises `StructureLimitError` for a structure that is expensive to decode, `ValueError` for another malformed one.
    """
    for signature, strip in _STRIPPERS.items():
        if data.startswith(signature):
            return strip(data)
    if media_decoder(data) is not None:
        return strip_media_file(data)
    if is_jpeg2000(data):
        return check_jpeg2000(data)
    return StrippedFile(data=data)


def _refuse_big_tiff(data: bytes) -> StrippedFile:
    raise ValueError("BigTIFF is not supported, only classic TIFF")


_STRIPPERS: Mapping[bytes, Callable[[bytes], StrippedFile]] = {
    b"\xff\xd8": strip_jpeg,
    PNG_SIGNATURE: strip_png,
    b"GIF8": strip_gif,
    b"RIFF": strip_webp,
    b"BM": check_bmp,
    b"II*\x00": strip_tiff,
    b"MM\x00*": strip_tiff,
    # Pillow also reads TIFF files whose version number is in the wrong byte order.
    b"II\x00*": strip_tiff,
    b"MM*\x00": strip_tiff,
    b"II+\x00": _refuse_big_tiff,
    b"MM\x00+": _refuse_big_tiff,
}
