"""Select models and a gallery, and wait until they are loaded."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import streamlit as st

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.web.background_cache import CacheEntry
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.messages import show_error
from hardrank.audit_app.web.resources import GallerySelection, LoadedGallery, catalogue, load_gallery, settings
from hardrank.models.progress import StageProgress

T = TypeVar("T")

_CHECK_EVERY_S: Final = 0.15
_KEY: Final = "gallery_selection"
MOST_MODELS: Final = 4


@dataclass(frozen=True, kw_only=True)
class _FieldValues:
    """The values of the fields, kept while other pages are shown."""

    models: tuple[str, ...]
    gallery: str
    """Text of the gallery field."""
    opened: GallerySelection | None = None
    """Selection that another page opened. It holds details without a field, for as long as the fields are unchanged."""


def open_selection(selection: GallerySelection) -> None:
    """Make the next page start with this selection of at most `MOST_MODELS` models."""
    st.session_state[_KEY] = _FieldValues(
        models=selection.models, gallery=" ".join(selection.gallery.paths), opened=selection
    )


def select_gallery() -> GallerySelection:
    """Draw the fields for models and gallery; raises `AuditError` if nothing is selected."""
    found, app = catalogue(), settings()
    folders = [str(entry.folder) for entry in found.entries]
    first = _FieldValues(models=tuple(str(entry.folder) for entry in found.default()), gallery=" ".join(app.gallery))
    kept: _FieldValues = st.session_state.get(_KEY) or first
    folders += [model for model in kept.models if model not in folders]
    names = {str(entry.folder): f"{entry.name} · {entry.card.defense}" for entry in found.entries}
    models = st.multiselect(
        "Models",
        folders,
        default=kept.models,
        format_func=lambda folder: names.get(folder, folder),
        accept_new_options=True,
        max_selections=MOST_MODELS,
        help="Choose bundles from the list, or type the folder of a bundle, timm/NAME or a torchvision name. "
        "Pretrained weights must be in the cache already.",
        key="selection.models",
    )
    gallery = st.text_input(
        "Gallery",
        value=kept.gallery,
        placeholder="test images of the first model's run",
        help="An index (or one index per model of the same images, separated by spaces), a run or bundle (its test "
        "images), a folder with one folder per class, or a CSV with path,label.",
        key="selection.gallery",
    )
    # Streamlit drops the values of widgets when another page is shown; these are kept.
    st.session_state[_KEY] = values = replace(kept, models=tuple(models), gallery=gallery)
    for message in found.problems:
        show_error(message)
    if not models:
        raise AuditError(
            "choose at least one model"
            if folders
            else "there is no model to attack; train one with `hardrank train`, or type the path of a bundle"
        )
    return _selection(values)


def _selection(values: _FieldValues) -> GallerySelection:
    """Read the fields; raises `GalleryError`."""
    opened = values.opened
    if opened is None or values.models != opened.models:
        return GallerySelection(models=values.models, gallery=read_gallery(values.gallery, values.models[0]))
    same = values.gallery == " ".join(opened.gallery.paths)
    return opened if same else replace(opened, gallery=read_gallery(values.gallery, values.models[0]))


def read_gallery(text: str, first: str) -> GallerySource:
    """Parse the text of a gallery field; empty: the test images of the model `first`.

    Spaces separate paths; a single path may contain spaces. Raises `GalleryError`.
    """
    text = text.strip()
    if not text:
        return GallerySource.at(first)
    try:
        return GallerySource.at(text)
    except AuditError:
        if " " not in text:
            raise
        return GallerySource.at(*text.split())


def wait_for_gallery(selection: GallerySelection) -> LoadedGallery:
    """Return models and gallery; show progress while they load, and stop the page if they cannot be loaded."""
    return wait_for(lambda: load_gallery(selection))


def wait_for(get: Callable[[], CacheEntry[T]]) -> T:
    """Return a value of a background cache; show progress meanwhile, and stop the page if it fails."""
    entry = get()
    place = st.empty()
    while not entry.done:
        place.progress(*progress_bar(entry.progress, waiting="Loading the models…"))
        time.sleep(_CHECK_EVERY_S)
        entry = get()
    place.empty()
    if entry.value is None:
        show_error(entry.error)
        st.stop()
    return entry.value


def progress_bar(progress: StageProgress | None, *, waiting: str) -> tuple[float, str]:
    """Return the share done and the text of a progress bar; `waiting` is the text before the first report."""
    if progress is None:
        return 0.0, waiting
    share = progress.done / progress.total if progress.total else 0.0
    return min(1.0, share), escape_markdown(f"{progress.stage}: {progress.done} of {progress.total}")
