"""Choosing models and a gallery, and waiting until they are there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st

from audit_app.errors import AuditError
from audit_app.gallery_source import GallerySource
from audit_app.shelf import Making
from audit_app.web.messages import plain, problem
from audit_app.web.resources import Stage, StageKey, ask_stage, catalogue, settings

T = TypeVar("T")

_LOOK_AGAIN_S = 0.15
_KEPT = "stage"


@dataclass(frozen=True)
class _Kept:
    """What was chosen, while pages change."""

    models: Sequence[str]
    gallery: Sequence[str]


def open_stage(models: Sequence[str], gallery: GallerySource) -> None:
    """Let the next page begin with these models and this gallery."""
    st.session_state[_KEPT] = _Kept(list(models), gallery.paths)


def choose_stage() -> StageKey:
    """Draw the fields for models and gallery; raises `AuditError` where nothing is chosen."""
    found, told = catalogue(), settings()
    folders = [str(entry.folder) for entry in found.entries]
    kept: _Kept = st.session_state.get(_KEPT) or _Kept([str(entry.folder) for entry in found.default()], told.gallery)
    folders += [model for model in kept.models if model not in folders]
    names = {str(entry.folder): f"{entry.name} · {entry.card.defense}" for entry in found.entries}
    chosen = st.multiselect(
        "Models",
        folders,
        default=kept.models,
        format_func=lambda folder: names.get(folder, folder),
        accept_new_options=True,
        max_selections=4,
        help="Bundles of models/zoo; any other path can be typed: the folder of a bundle, timm/NAME or a torchvision "
        "name whose weights lie in the cache.",
        key="stage.models",
    )
    gallery = st.text_input(
        "Gallery",
        value=" ".join(kept.gallery),
        placeholder="the test images of the first model's run",
        help="An index (several, with spaces between, where each model has one of the same images), a run or bundle "
        "(its test images), a folder of class folders, or a CSV of path,label.",
        key="stage.gallery",
    )
    # Widgets are forgotten where another page is looked at; this is not.
    st.session_state[_KEPT] = _Kept(chosen, gallery.split(" ") if gallery else [])
    for message in found.problems:
        problem(message)
    if not chosen:
        raise AuditError(
            "there is no model to attack: train one with `python trainer/run.py`, or type the path of a bundle"
            if not folders
            else "choose at least one model"
        )
    return StageKey(models=tuple(chosen), gallery=read_gallery(gallery, chosen[0]))


def read_gallery(text: str, first: str) -> GallerySource:
    """Read the field of the gallery, the test images of the model `first` where it is empty.

    A path may hold spaces where it is alone. Raises `SceneError`.
    """
    text = text.strip()
    if not text:
        return GallerySource.at(first)
    try:
        return GallerySource.at(text)
    except AuditError:
        if " " not in text:
            raise
        return GallerySource.at(*text.split())


def wait_for(key: StageKey) -> Stage:
    """Give models and gallery; while they are loaded, show how far, and end the run of the page if they cannot be."""
    return wait(lambda: ask_stage(key))


def wait(ask: Callable[[], Making[T]]) -> T:
    """Give what is made elsewhere; show how far it has come, and end the run of the page where it cannot be made."""
    making = ask()
    place = st.empty()
    while not making.over:
        progress = making.progress
        if progress is None:
            place.progress(0.0, "Loading the models …")
        else:
            share = progress.done / progress.total if progress.total else 0.0
            place.progress(min(1.0, share), plain(f"{progress.stage}: {progress.done} of {progress.total}"))
        time.sleep(_LOOK_AGAIN_S)
        making = ask()
    place.empty()
    if making.made is None:
        problem(making.problem)
        st.stop()
    return making.made
