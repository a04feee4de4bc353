"""The page of the live attack."""

from typing import Final

import streamlit as st

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.web.attack_view import attack_areas, attack_view
from hardrank.audit_app.web.gallery_selection import select_gallery, wait_for_gallery
from hardrank.audit_app.web.messages import errors_shown

_METHODS: Final = (SearchMethod.AUTO, SearchMethod.NES, SearchMethod.SPSA, SearchMethod.SQUARE)


def live_page() -> None:
    """Draw the page."""
    areas = attack_areas()
    with areas.settings:
        models = st.expander("Models and gallery", icon=":material/photo_library:")
    with errors_shown():
        with models:
            selection = select_gallery()
        with areas.setup:
            loaded = wait_for_gallery(selection)
        attack_view(areas, selection, loaded, methods=_METHODS)
