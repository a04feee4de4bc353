"""The page of the live attack."""

from typing import Final

import streamlit as st

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.web.attack_view import Areas, attack_view
from hardrank.audit_app.web.messages import told
from hardrank.audit_app.web.stage import choose_stage, wait_for

_METHODS: Final = (SearchMethod.AUTO, SearchMethod.NES, SearchMethod.SPSA, SearchMethod.SQUARE)


def live_page() -> None:
    """Draw the page."""
    st.markdown("## Watch a ranking being attacked")
    hero, buttons, bar = st.container(), st.container(), st.container()
    more = st.expander("All options", icon=":material/tune:")
    place = st.expander("Models and gallery", icon=":material/photo_library:")
    areas = Areas(hero, buttons, bar, more, st.container())
    with told():
        with place:
            key = choose_stage()
        with hero:
            stage = wait_for(key)
        attack_view(areas, key, stage, methods=_METHODS)
