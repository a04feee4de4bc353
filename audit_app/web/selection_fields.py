"""The fields for models and gallery. This module does not import PyTorch, so that a page shows them at once."""

from dataclasses import dataclass
from typing import Final

import streamlit as st

from hardrank.audit_app.subjects.bundles import BundleList, list_bundles
from hardrank.audit_app.web.messages import show_error
from hardrank.audit_app.web.settings import settings

MOST_MODELS: Final = 4
MODELS_KEY: Final = "selection.models"
GALLERY_KEY: Final = "selection.gallery"
_KEY: Final = "selection_fields"


@dataclass(frozen=True, kw_only=True)
class SelectionFields:
    """The values of the fields, kept while other pages are shown."""

    models: tuple[str, ...]
    gallery: str
    """Text of the gallery field."""


def catalog() -> BundleList:
    """Return the available bundles."""
    return list_bundles(settings().zoo)


def set_selection(values: SelectionFields) -> None:
    """Fill the fields of the next page."""
    st.session_state[_KEY] = values


def selection_fields() -> SelectionFields:
    """Draw the fields and return their values."""
    found, app = catalog(), settings()
    folders = [str(entry.folder) for entry in found.entries]
    first = SelectionFields(models=tuple(str(entry.folder) for entry in found.default()), gallery=" ".join(app.gallery))
    kept: SelectionFields = st.session_state.get(_KEY) or first
    folders += [model for model in kept.models if model not in folders]
    names = {str(entry.folder): f"{entry.name} · {entry.card.defense}" for entry in found.entries}
    # Streamlit drops the values of widgets when another page is shown, so they are set from what is kept.
    st.session_state[_KEY] = kept
    st.session_state[MODELS_KEY] = list(kept.models)
    st.session_state[GALLERY_KEY] = kept.gallery
    st.multiselect(
        "Models",
        folders,
        format_func=lambda folder: names.get(folder, folder),
        accept_new_options=True,
        max_selections=MOST_MODELS,
        help="Choose bundles from the list, or type the folder of a bundle, timm/NAME or a torchvision name. "
        "Pretrained weights must be in the cache already.",
        key=MODELS_KEY,
        on_change=_keep,
    )
    st.text_input(
        "Gallery",
        placeholder="test images of the first model's run",
        help="An index (or one index per model of the same images, separated by spaces), a run or bundle (its test "
        "images), a folder with one folder per class, or a CSV with path,label.",
        key=GALLERY_KEY,
        on_change=_keep,
    )
    for message in found.problems:
        show_error(message)
    return kept


def _keep() -> None:
    """Keep what the visitor entered."""
    set_selection(SelectionFields(models=tuple(st.session_state[MODELS_KEY]), gallery=st.session_state[GALLERY_KEY]))
