"""Dialogs to choose the image under attack and its targets."""

from functools import partial
from typing import Final

import streamlit as st

from hardrank.audit_app.drawing.formatting import format_plural
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web.chosen_images import (
    ChosenImages,
    choose_victim,
    draw_targets,
    latest_choice,
    most_targets,
    toggle_target,
)
from hardrank.audit_app.web.gallery_picker import PickerOptions, gallery_picker
from hardrank.audit_app.web.messages import errors_shown
from hardrank.audit_app.web.pictures import upload_uri
from hardrank.audit_app.web.resources import LoadedGallery, session
from hardrank.models.decode_limits import DEFAULT_LIMITS
from hardrank.models.image_listing import SUFFIXES

_KEY: Final = "dialog"
IMAGE_DIALOG: Final = "image"
TARGETS_DIALOG: Final = "targets"


def open_dialog(name: str | None = None) -> None:
    """Open a dialog; None closes it."""
    st.session_state[_KEY] = name


def dialog_opened() -> str | None:
    """Return which dialog is open."""
    name: str | None = st.session_state.get(_KEY)
    return name


@st.dialog("Choose an image", width="large", on_dismiss=open_dialog)
def choose_image(loaded: LoadedGallery, chosen: ChosenImages) -> None:
    """Let the visitor click an image of the gallery, or upload one."""
    with errors_shown():
        file = st.file_uploader(
            f"Upload an image, at most {DEFAULT_LIMITS.max_bytes >> 20} MB",
            type=list(SUFFIXES),
            key="upload",
            max_upload_size=DEFAULT_LIMITS.max_bytes >> 20,
        )
        if file is not None:
            _show_upload(loaded, chosen, file.getvalue())
        picked = [] if chosen.victim.id is None else [loaded[0].gallery.row(chosen.victim.id)]
        pick = partial(_pick_image, loaded, chosen)
        gallery_picker(loaded[0], PickerOptions(key="image", picked=picked, excluded=[], on_pick=pick, closes=True))


def _show_upload(loaded: LoadedGallery, chosen: ChosenImages, data: bytes) -> None:
    """Show an uploaded image and ask for its class, which determines the relevant answers."""
    gallery = loaded[0].gallery
    st.html(f'<img src="{upload_uri(loaded[0], data)}" alt="the image as the models see it" style="{_STYLE}">')
    label = st.selectbox("Class", [_NEAREST, *filter(None, gallery.classes)], key="upload.class")
    victim = Victim(data=data, label=None if label == _NEAREST else label)
    if st.button("Attack this image", type="primary", key="upload.take", on_click=_take, args=(chosen, victim)):
        st.rerun()


_NEAREST: Final = "class of the nearest image"
_STYLE: Final = "width:8rem;image-rendering:pixelated;border-radius:.5rem"


def _take(chosen: ChosenImages, victim: Victim) -> None:
    choose_victim(chosen, victim)
    session().drop()
    open_dialog(None)


def _pick_image(loaded: LoadedGallery, chosen: ChosenImages, row: int) -> None:
    _take(chosen, Victim(id=loaded[0].gallery.ids[row]))


@st.dialog("Choose targets", width="large", on_dismiss=open_dialog)
def choose_targets(loaded: LoadedGallery, chosen: ChosenImages, attack: str) -> None:
    """Let the visitor click targets, or have them drawn from the seed."""
    with errors_shown():
        chosen = latest_choice(chosen)  # it changes while the dialog is open
        gallery = loaded[0].gallery
        own = [] if chosen.victim.id is None else [gallery.row(chosen.victim.id)]
        picked = [gallery.row(id) for id in chosen.targets.get(attack, ())]
        st.button(
            "Draw from the seed",
            key="targets-drawn",
            icon=":material/casino:",
            on_click=draw_targets,
            args=(chosen, attack),
        )

        def pick(row: int) -> None:
            toggle_target(latest_choice(chosen), attack, gallery.ids[row])

        count = f"{format_plural(len(picked), 'target', 'targets')} chosen, at most {most_targets(attack)}"
        st.caption(count if picked else "None chosen: the seed draws them")
        if st.button("Done", type="primary", key="targets-done", on_click=open_dialog):
            st.rerun()
        gallery_picker(loaded[0], PickerOptions(key="target", picked=picked, excluded=own, on_pick=pick))
