"""Choosing images of a gallery by clicking them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.web.pictures import called, thumbnail

_PAGE = 24
_ANY = "all classes"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a click is taken."""

    key: str
    """Begins the keys of the widgets."""
    picked: Sequence[int]
    """Rows that are chosen already, and marked."""
    left_out: Sequence[int]
    """Rows that cannot be chosen."""
    on_pick: Callable[[int], None]
    """Is given the row that was clicked."""
    closes: bool = False
    """Whether a click ends the choosing: the page is drawn anew."""


def gallery_picker(served: ServedGallery, choice: Choice) -> None:
    """Draw a page of the gallery's images as buttons, with a class to look at and a way to the next page."""
    gallery = served.gallery
    narrow, turn = st.columns([3, 2], vertical_alignment="bottom")
    classes = [name for name in gallery.classes if name]
    label = narrow.selectbox("Class", [_ANY, *classes], key=f"{choice.key}.class")
    page_key = f"{choice.key}.page"
    st.session_state.setdefault(page_key, 0)
    turn.button("Show others", key=f"{choice.key}.others", on_click=_turn, args=(page_key,), icon=":material/shuffle:")
    rows = _page(served, None if label == _ANY else label, st.session_state[page_key], choice)
    st.html(f"<style>{''.join(_style(served, row, choice) for row in rows)}</style>")
    with st.container(horizontal=True, gap="small", key=f"{choice.key}-grid"):
        for row in rows:
            name = called(served, row)
            key = f"{choice.key}-{row}"
            if st.button(name, key=key, help=name, on_click=choice.on_pick, args=(row,)) and choice.closes:
                st.rerun()


def _turn(key: str) -> None:
    st.session_state[key] += 1


def _page(served: ServedGallery, label: str | None, page: int, choice: Choice) -> list[int]:
    """Rows to show: those chosen, then some at random, other ones on every page."""
    gallery = served.gallery
    rows = np.arange(len(gallery))
    if label is not None:
        rows = rows[gallery.labels == gallery.classes.index(label)]
    rows = rows[~np.isin(rows, [*choice.left_out, *choice.picked])]
    shuffled = np.random.default_rng(0).permutation(rows)
    begin = (page * _PAGE) % max(1, len(shuffled))
    return [*choice.picked, *np.roll(shuffled, -begin)[:_PAGE].tolist()]


def _style(served: ServedGallery, row: int, choice: Choice) -> str:
    """Make a button look like its picture; its words are for screen readers and the tooltip."""
    frame = "outline:3px solid #d6245f;outline-offset:1px;" if row in choice.picked else ""
    button = f".st-key-{choice.key}-{row} button"
    return (
        f"{button}{{width:4.6rem;height:4.6rem;padding:0;border-radius:.5rem;{frame}"
        f"background:url({thumbnail(served, row)}) center/cover;image-rendering:pixelated}}{button} p{{font-size:0}}"
    )
