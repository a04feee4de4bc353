"""The image file or thumbnail of an item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hardrank.models.errors import HardrankError
from hardrank.models.image_files.media import media_decoder
from hardrank.serving.index.search_index import SearchIndex

_IMAGE_TYPES: Final[Mapping[bytes, str]] = {
    b"\xff\xd8": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"RIFF": "image/webp",
    b"\x00\x00\x00\x0cjP  ": "image/jp2",
}


class NoImageError(HardrankError):
    """Neither the file nor a thumbnail of the item exists."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFile:
    """An encoded image and its type."""

    data: bytes
    media_type: str
    original: bool
    """Whether these are the indexed bytes; else the thumbnail."""


def image_of(index: SearchIndex, id: str) -> ImageFile:
    """Return the file of an item, or its thumbnail if the file was deleted or has changed.

    Raises `UnknownItemError`, and `NoImageError` if there is no thumbnail either.
    """
    data = index.original(id)
    if data is None:
        return thumbnail_of(index, id)
    return ImageFile(data=data, media_type=media_type_of(data), original=True)


def media_type_of(data: bytes) -> str:
    """Return the media type of an image file by its first bytes."""
    if (decoder := media_decoder(data)) is not None:
        return "image/avif" if decoder == "AVIF" else "image/heic"
    types = (media_type for magic, media_type in _IMAGE_TYPES.items() if data.startswith(magic))
    return next(types, "application/octet-stream")


def thumbnail_of(index: SearchIndex, id: str) -> ImageFile:
    """Return the thumbnail of an item, a PNG; raises as `image_of`."""
    data = index.thumbnail(id)
    if not data:
        raise NoImageError(f"the item {id!r} has no image: its file is gone or has changed, and it has no thumbnail")
    return ImageFile(data=data, media_type="image/png", original=False)
