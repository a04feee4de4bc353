"""Markup on a page, as it is: no picture is re-encoded, and one that is redrawn does not blink."""

from pathlib import Path

import streamlit as st

from hardrank.audit_app.drawing.markup import Markup, element

_HERE = Path(__file__).parent

_show = st.components.v2.component(
    "hardrank_panel",
    html='<div class="panel"></div>',
    css=(_HERE / "panel.css").read_text(encoding="utf-8"),
    js=(_HERE / "panel.js").read_text(encoding="utf-8"),
)


def panel(*markup: Markup, key: str, looked_at: bool = False) -> None:
    """Show pieces of markup below each other; what is to be `looked_at` is brought into sight once."""
    _show(data={"markup": str(element("div", *markup)), "lookedAt": looked_at}, key=key)
