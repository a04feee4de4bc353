"""Recognize a browser tab after a reload, so that it gets its attack back."""

from pathlib import Path

import streamlit as st

from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.web.attack_link import link_of, open_attack
from hardrank.audit_app.web.gallery_selection import open_selection
from hardrank.audit_app.web.resources import session, visitors

_KEY = "tab"
_IDENTIFIED = "tab.identified"

_ask = st.components.v2.component("hardrank_tab", js=(Path(__file__).parent / "tab.js").read_text(encoding="utf-8"))


def reconnect() -> None:
    """Take over the attack that this tab had before a reload, with its settings; call before the fields are drawn."""
    known = st.session_state.get(_IDENTIFIED)
    token = getattr(_ask(data={"token": known}, key=_KEY, on_token_change=lambda: None), "token", None)
    if not token or token == known:
        return
    st.session_state[_IDENTIFIED] = token
    visitor = session()
    if visitors().identify(str(token), visitor) and visitor.live is not None:
        _restore(visitor.live)


def _restore(live: LiveAttack) -> None:
    """Fill the fields with the settings of an attack."""
    selection = session().selection
    if selection is not None:
        open_selection(selection)
        open_attack(link_of(selection, live.victim, live.options), live.victim)
