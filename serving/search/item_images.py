"""The image of an item, as it is sent to a caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hardrank.models.errors import HardrankError
from hardrank.serving.index.search_index import SearchIndex

_IMAGE_TYPES: Final[Mapping[bytes, str]] = {
    b"\xff\xd8": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"RIFF": "image/webp",
}


class NoImageError(HardrankError):
    """An item of which neither the file nor a thumbnail is at hand."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFile:
    """An image as it is sent to a caller."""

    data: bytes
    media_type: str
    original: bool
    """Whether these are the bytes that were indexed, and not the thumbnail."""


def image_of(index: SearchIndex, id: str) -> ImageFile:
    """Give the file that an item was made of, or its thumbnail where that is gone or has changed.

    Raises `UnknownItemError`, and `NoImageError` where there is no thumbnail either.
    """
    data = index.original(id)
    if data is None:
        return thumbnail_of(index, id)
    kind = next((kind for start, kind in _IMAGE_TYPES.items() if data.startswith(start)), "application/octet-stream")
    return ImageFile(data=data, media_type=kind, original=True)


def thumbnail_of(index: SearchIndex, id: str) -> ImageFile:
    """Give an item's thumbnail, a PNG; raises as `image_of`."""
    data = index.thumbnail(id)
    if not data:
        raise NoImageError(f"the item {id!r} has no image at hand: its file is gone, and it has no thumbnail")
    return ImageFile(data=data, media_type="image/png", original=False)
