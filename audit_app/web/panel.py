"""Show markup on a page unchanged: images are not re-encoded and do not flicker when they are redrawn."""

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


def panel(*markup: Markup, key: str, scroll_to: bool = False) -> None:
    """Show pieces of markup below each other; with `scroll_to`, scroll the page there once."""
    _show(data={"markup": str(element("div", *markup)), "scrollTo": scroll_to}, key=key)
