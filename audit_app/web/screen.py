"""A page from its first moment: its title and controls, disabled until the libraries behind them are imported."""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Final

import streamlit as st

from hardrank.audit_app.errors import INTERNAL_ERROR
from hardrank.audit_app.web.background_import import page_imports
from hardrank.audit_app.web.messages import errors_shown, show_error
from hardrank.audit_app.web.selection_fields import selection_fields

_CHECK_EVERY_S: Final = 0.1
_DRAWN_AFTER_S: Final = 0.3


def show_screen(title: str, page: str, *, controls: Callable[[], None] = lambda: None) -> None:
    """Draw a page.

    Args:
        title: Its heading.
        page: Name of its module in this folder, and of the function in it that draws the page.
        controls: Draws its controls, without their effect, while the libraries are imported.
    """
    st.title(title, anchor=False)
    imports = page_imports()
    if not imports.done:
        _wait(controls)
    if imports.failed:
        show_error(INTERNAL_ERROR)
        return
    getattr(import_module(f"hardrank.audit_app.web.{page}"), page)()


def _wait(controls: Callable[[], None]) -> None:
    """Draw the controls and wait for the imports; then start over with the whole page."""
    imports = page_imports()
    with st.container(key="loading"):
        place = st.empty()
        with errors_shown():
            controls()
    place.info("Loading…", icon=":material/hourglass_top:")
    time.sleep(_DRAWN_AFTER_S)  # an import blocks the thread that sends the page
    imports.start()
    shown = ""
    while not imports.wait(_CHECK_EVERY_S):
        if imports.current != shown:
            shown = imports.current
            place.info(f"Loading {shown}…", icon=":material/hourglass_top:")
    st.rerun()


def live_controls() -> None:
    """Draw the controls of the live attack; models and gallery can be chosen already."""
    with st.container(horizontal=True):
        st.button("Attack", type="primary", icon=":material/bolt:", key="loading.attack", disabled=True)
        st.button("Change image", icon=":material/image_search:", key="loading.image", disabled=True)
        st.button("Change target", icon=":material/my_location:", key="loading.target", disabled=True)
    selection_fields()
