"""Select models and a gallery, and wait until they are loaded."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

import streamlit as st

from hardrank.audit_app.audit.progress import MINUTES_LEFT, SHARE
from hardrank.audit_app.drawing.formatting import format_percent
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.subjects.model_names import split_label
from hardrank.audit_app.web.background_cache import CacheEntry
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.messages import show_error
from hardrank.audit_app.web.resources import LoadedGallery, load_gallery
from hardrank.audit_app.web.selection_fields import SelectionFields, catalog, selection_fields, set_selection
from hardrank.audit_app.web.session import GallerySelection
from hardrank.models.progress import StageProgress, duration_text

T = TypeVar("T")

_CHECK_EVERY_S: Final = 0.15
_OPENED: Final = "opened_selection"


def open_selection(selection: GallerySelection) -> None:
    """Make the next page start with this selection of at most `MOST_MODELS` models.

    It may hold details without a field; they apply for as long as the fields are unchanged.
    """
    st.session_state[_OPENED] = selection
    set_selection(SelectionFields(models=selection.models, gallery=" ".join(selection.gallery.paths)))


def select_gallery() -> GallerySelection:
    """Draw the fields for models and gallery; raises `AuditError` if nothing is selected."""
    values = selection_fields()
    if not values.models:
        raise AuditError(
            "choose at least one model"
            if catalog().entries
            else "there is no model to attack; train one with `hardrank train`, or type the path of a bundle"
        )
    return _selection(values)


def _selection(values: SelectionFields) -> GallerySelection:
    """Read the fields; raises `GalleryError`."""
    opened: GallerySelection | None = st.session_state.get(_OPENED)
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
        return GallerySource.at(split_label(first)[1])
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
    # Both places are redrawn at once, so that the error of what was selected before does not stay while this loads.
    place, failure = st.empty(), st.empty()
    while not entry.done:
        place.progress(*progress_bar(entry.progress, waiting="Loading the models…"))
        time.sleep(_CHECK_EVERY_S)
        entry = get()
    place.empty()
    if entry.value is None:
        with failure:
            show_error(entry.error)
        st.stop()
    return entry.value


def progress_bar(progress: StageProgress | None, *, waiting: str) -> tuple[float, str]:
    """Return the share done and the text of a progress bar; `waiting` is the text before the first report."""
    if progress is None:
        return 0.0, waiting
    share = progress.done / progress.total if progress.total else 0.0
    text = f"{progress.stage}: {progress.done} of {progress.total}"
    if SHARE in progress.measures:  # of an audit: the bar is that of the whole audit
        share = progress.measures[SHARE] / 100
        text += f" · {format_percent(share)} of the audit"
    if (minutes := progress.measures.get(MINUTES_LEFT)) is not None:
        text += f" · {duration_text(60 * minutes)} left"
    return min(1.0, share), escape_markdown(text)
