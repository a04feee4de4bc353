"""Thumbnails and names of gallery images for the pages."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final
from weakref import WeakKeyDictionary

import streamlit as st

from hardrank.audit_app.drawing.thumbnail import thumbnail_uri
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.images.exact_png import Uint8Image
from hardrank.models.preprocessing import file_pixels

_SIDE: Final = 96
_UPLOAD_SIDE: Final = 256
_MOST: Final = 2000


class ThumbnailCache:
    """PNG thumbnails as `data:` URIs, kept for as long as the gallery that they belong to. Thread-safe."""

    def __init__(self, *, most: int = _MOST) -> None:
        """Keep at most `most` thumbnails per gallery, those used last."""
        self._most = most
        self._lock = threading.Lock()
        self._kept: WeakKeyDictionary[object, OrderedDict[Hashable, str]] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Return the number of thumbnails of all galleries."""
        with self._lock:
            return sum(map(len, self._kept.values()))

    def uri(self, owner: object, key: Hashable, load: Callable[[], Uint8Image], *, side: int = _SIDE) -> str:
        """Return the thumbnail `key` of `owner`; call `load` for the pixels (3,H,W) only if it is not kept."""
        key = (key, side)
        with self._lock:
            kept = self._kept.setdefault(owner, OrderedDict())
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        uri = thumbnail_uri(load(), side)
        with self._lock:
            kept[key] = uri
            while len(kept) > self._most:
                kept.popitem(last=False)
        return uri


@st.cache_resource(show_spinner=False)
def thumbnails() -> ThumbnailCache:
    """Return the thumbnails that all visitors share."""
    return ThumbnailCache()


def thumbnail(served: ServedGallery, row: int) -> str:
    """Return a gallery image, as a model sees it, as a `data:` URI."""
    return thumbnails().uri(served, row, lambda: served.picture(row))


def upload_uri(served: ServedGallery, data: bytes) -> str:
    """Return an uploaded image, as a model sees it, as a `data:` URI; raises `UndecodableImageError`."""
    key = hashlib.sha256(data).digest()
    return thumbnails().uri(served, key, lambda: file_pixels(data, served.subject.preprocessing), side=_UPLOAD_SIDE)


def class_or_id(served: ServedGallery, row: int) -> str:
    """Return the class of a gallery image, or its id if it has none."""
    return served.gallery.label(row) or served.gallery.ids[row]


def image_name(served: ServedGallery, row: int) -> str:
    """Return the class and id of a gallery image."""
    gallery = served.gallery
    if row >= len(gallery):
        return "the attacked image"
    label, id = gallery.label(row), gallery.ids[row]
    return f"{label} ({id})" if label else id
