"""The page of the live attack."""

from typing import Final

import streamlit as st

from hardrank.audit_app.blackbox.choice import SEARCH_METHODS
from hardrank.audit_app.web.attack_link import open_link
from hardrank.audit_app.web.attack_view import attack_areas, attack_view
from hardrank.audit_app.web.gallery_selection import select_gallery, wait_for_gallery
from hardrank.audit_app.web.messages import errors_shown
from hardrank.audit_app.web.tab import reconnect

_OPENED: Final = "live.address"


def live_page() -> None:
    """Draw the page."""
    areas = attack_areas()
    with areas.settings:
        models = st.expander("Models and gallery", icon=":material/photo_library:")
    with areas.setup, errors_shown():
        _open_address()
        reconnect()
    with errors_shown():
        with models:
            selection = select_gallery()
        with areas.setup:
            loaded = wait_for_gallery(selection)
        attack_view(areas, selection, loaded, methods=SEARCH_METHODS)


def _open_address() -> None:
    """Open the attack in the address of the page, once per visit."""
    if not st.session_state.setdefault(_OPENED, False):
        st.session_state[_OPENED] = True
        if st.query_params:
            open_link({name: st.query_params.get_all(name) for name in st.query_params})
