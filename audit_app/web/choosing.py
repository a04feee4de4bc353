"""Dialogs in which a visitor chooses the image under attack, and where it aims."""

from functools import partial
from typing import Final

import streamlit as st

from hardrank.audit_app.drawing.markup import png_uri
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web.messages import told
from hardrank.audit_app.web.picker import Choice, gallery_picker
from hardrank.audit_app.web.plan import Plan, attack_image, chosen_plan, draw_targets, toggle_target
from hardrank.audit_app.web.resources import Stage, visitor
from hardrank.models.preprocessing import DEFAULT_LIMITS, file_pixels

_ASKING: Final = "asking"
IMAGE: Final = "image"
TARGETS: Final = "targets"


def ask(what: str | None = None) -> None:
    """Open a dialog; None: close it."""
    st.session_state[_ASKING] = what


def asked() -> str | None:
    """Which dialog is open."""
    what: str | None = st.session_state.get(_ASKING)
    return what


@st.dialog("Which image shall be attacked?", width="large", on_dismiss=ask)
def choose_image(stage: Stage, plan: Plan) -> None:
    """Let one click an image of the gallery, or give a file."""
    with told():
        file = st.file_uploader(
            "Your own image",
            type=["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"],
            key="upload",
            max_upload_size=DEFAULT_LIMITS.max_bytes >> 20,
        )
        if file is not None:
            _uploaded(stage, plan, file.getvalue())
        row = None if plan.victim.id is None else stage[0].gallery.row(plan.victim.id)
        picked = [] if row is None else [row]
        pick = partial(_image_picked, stage, plan)
        gallery_picker(stage[0], Choice(key="image", picked=picked, left_out=[], on_pick=pick, closes=True))


def _uploaded(stage: Stage, plan: Plan, data: bytes) -> None:
    """Look at an uploaded file: it must be an image; its class decides what counts as a right answer."""
    gallery = stage[0].gallery
    pixels = file_pixels(data, stage[0].subject.preprocessing)
    st.html(f'<img src="{png_uri(encode_png(pixels))}" alt="as the models see it" style="{_SEEN}">')
    label = st.selectbox("Its class", [_NEAREST, *filter(None, gallery.classes)], key="upload.class")
    victim = Victim(data=data, label=None if label == _NEAREST else label)
    if st.button("Attack this image", type="primary", key="upload.take", on_click=_taken, args=(plan, victim)):
        st.rerun()


_NEAREST: Final = "that of the nearest image"
_SEEN: Final = "width:8rem;image-rendering:pixelated;border-radius:.5rem"


def _taken(plan: Plan, victim: Victim) -> None:
    attack_image(plan, victim)
    visitor().forget()
    ask(None)


def _image_picked(stage: Stage, plan: Plan, row: int) -> None:
    _taken(plan, Victim(id=stage[0].gallery.ids[row]))


@st.dialog("Where shall it aim?", width="large", on_dismiss=ask)
def choose_targets(stage: Stage, plan: Plan, attack: str) -> None:
    """Let one click targets, or leave them to the seed."""
    with told():
        plan = chosen_plan(plan)  # it changes while the dialog is open
        gallery = stage[0].gallery
        own = [] if plan.victim.id is None else [gallery.row(plan.victim.id)]
        picked = [gallery.row(id) for id in plan.targets.get(attack, ())]
        st.button(
            "Draw them from the seed",
            key="targets-drawn",
            icon=":material/casino:",
            on_click=draw_targets,
            args=(plan, attack),
        )

        def pick(row: int) -> None:
            toggle_target(chosen_plan(plan), attack, gallery.ids[row])

        if st.button("Done", type="primary", key="targets-done", on_click=ask):
            st.rerun()
        gallery_picker(stage[0], Choice(key="target", picked=picked, left_out=own, on_pick=pick))
