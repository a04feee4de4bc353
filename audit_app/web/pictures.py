"""Small pictures of a gallery for pages, as PNG, each made once while it is remembered."""

import numpy as np
import streamlit as st
from PIL import Image

from hardrank.audit_app.drawing.markup import png_uri
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.images.exact_png import Pixels, encode_png

_SIDE = 96


@st.cache_data(max_entries=2000, show_spinner=False)
def _small(sha256: str, id: str, _pixels: Pixels) -> str:
    pixels = _pixels
    if pixels.shape[-1] > _SIDE:  # for looking at alone; what is attacked is shown whole
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    return png_uri(encode_png(pixels))


def thumbnail(served: ServedGallery, row: int) -> str:
    """Give the address (`data:`) of a gallery image as a model sees it."""
    embedded = served.embedded
    place = f"{embedded.subject.sha256}{embedded.subject.preprocessing}{embedded.gallery.name}"
    return _small(place, f"{row} {embedded.gallery.ids[row]}", served.picture(row))


def kind(served: ServedGallery, row: int) -> str:
    """Say what a gallery image shows: its class, or its id where it has none."""
    return served.gallery.label(row) or served.gallery.ids[row]


def called(served: ServedGallery, row: int) -> str:
    """Name a gallery image: its class, and its id."""
    gallery = served.gallery
    if row >= len(gallery):
        return "the attacked image"
    label, id = gallery.label(row), gallery.ids[row]
    return f"{label} ({id})" if label else id
