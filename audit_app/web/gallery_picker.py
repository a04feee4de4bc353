"""Choose images of a gallery by clicking them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import streamlit as st

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.pictures import image_name, thumbnail

_PAGE: Final = 24
_ALL_CLASSES: Final = "all classes"


@dataclass(frozen=True, kw_only=True)
class PickerOptions:
    """What can be picked, and what a click does."""

    key: str
    """Prefix of the keys of the widgets."""
    picked: Sequence[int]
    """Rows that are already chosen; they are marked."""
    excluded: Sequence[int]
    """Rows that cannot be chosen."""
    on_pick: Callable[[int], None]
    """Called with the clicked row."""
    closes: bool = False
    """Whether a click closes the dialog."""


def gallery_picker(served: ServedGallery, options: PickerOptions) -> None:
    """Draw a page of the gallery as buttons, with a filter by class and a button for other images."""
    gallery = served.gallery
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    classes = [name for name in gallery.classes if name]
    label = left.selectbox("Class", [_ALL_CLASSES, *classes], key=f"{options.key}.class")
    page_key = f"{options.key}.page"
    st.session_state.setdefault(page_key, 0)
    right.button(
        "Show others", key=f"{options.key}.others", on_click=_next_page, args=(page_key,), icon=":material/shuffle:"
    )
    rows = _rows(served, None if label == _ALL_CLASSES else label, st.session_state[page_key], options)
    st.html(f"<style>{''.join(_style(served, row, options) for row in rows)}</style>")
    with st.container(horizontal=True, gap="small", key=f"{options.key}-grid"):
        for row in rows:
            name = escape_markdown(image_name(served, row))
            key = f"{options.key}-{row}"
            if st.button(name, key=key, help=name, on_click=options.on_pick, args=(row,)) and options.closes:
                st.rerun()


def _next_page(key: str) -> None:
    st.session_state[key] += 1


def _rows(served: ServedGallery, label: str | None, page: int, options: PickerOptions) -> list[int]:
    """Return the rows to show: random ones, different on each page, then those chosen that are not among them.

    Choosing an image does not move the others.
    """
    gallery = served.gallery
    rows = np.arange(len(gallery))
    if label is not None:
        rows = rows[gallery.labels == gallery.classes.index(label)]
    rows = rows[~np.isin(rows, options.excluded)]
    shuffled = np.random.default_rng(0).permutation(rows)
    begin = (page * _PAGE) % max(1, len(shuffled))
    shown = np.roll(shuffled, -begin)[:_PAGE].tolist()
    return shown if options.closes else [*shown, *(row for row in options.picked if row not in shown)]


def _style(served: ServedGallery, row: int, options: PickerOptions) -> str:
    """Return CSS that makes a button look like its image; its text is for screen readers and the tooltip."""
    frame = "outline:3px solid #d6245f;outline-offset:1px;" if row in options.picked else ""
    button = f".st-key-{options.key}-{row} button"
    return (
        f"{button}{{width:4.6rem;height:4.6rem;padding:0;border-radius:.5rem;{frame}"
        f"background:url({thumbnail(served, row)}) center/cover;image-rendering:pixelated}}{button} p{{font-size:0}}"
    )
