"""Small pictures of a gallery for pages, as PNG, each made once while it is remembered."""

import numpy as np
import streamlit as st
from PIL import Image

from hardrank.audit_app.drawing.markup import png_uri
from hardrank.audit_app.gallery.served import Served
from hardrank.audit_app.images.exact_png import Pixels, encode_png

_SIDE = 96


@st.cache_data(max_entries=2000, show_spinner=False)
def _small(sha256: str, id: str, _pixels: Pixels) -> str:
    pixels = _pixels
    if pixels.shape[-1] > _SIDE:  # for looking at alone; what is attacked is shown whole
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    return png_uri(encode_png(pixels))


def thumbnail(served: Served, row: int) -> str:
    """Give the address (`data:`) of a gallery image as a model sees it."""
    scene = served.scene
    place = f"{scene.subject.sha256}{scene.subject.preprocessing}{scene.collection.name}"
    return _small(place, f"{row} {scene.collection.ids[row]}", served.picture(row))


def kind(served: Served, row: int) -> str:
    """Say what a gallery image shows: its class, or its id where it has none."""
    return served.scene.collection.label(row) or served.scene.collection.ids[row]


def called(served: Served, row: int) -> str:
    """Name a gallery image: its class, and its id."""
    collection = served.scene.collection
    if row >= len(collection):
        return "the attacked image"
    label, id = collection.label(row), collection.ids[row]
    return f"{label} ({id})" if label else id
