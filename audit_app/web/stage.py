"""Choosing models and a gallery, and waiting until they are there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import streamlit as st

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.web.background_cache import Making
from hardrank.audit_app.web.messages import plain, problem
from hardrank.audit_app.web.resources import Stage, StageKey, ask_stage, catalogue, settings

T = TypeVar("T")

_LOOK_AGAIN_S = 0.15
_KEPT = "stage"
MOST_MODELS: Final = 4


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What was chosen, while pages change."""

    models: tuple[str, ...]
    gallery: str
    """As the field says it."""
    opened: StageKey | None = None
    """What another page asked for: it says more than the fields, and holds for what they leave as it was."""


def open_stage(key: StageKey) -> None:
    """Let the next page begin with these models, at most `MOST_MODELS`, and this gallery."""
    st.session_state[_KEPT] = _Kept(models=key.models, gallery=" ".join(key.gallery.paths), opened=key)


def choose_stage() -> StageKey:
    """Draw the fields for models and gallery; raises `AuditError` where nothing is chosen."""
    found, told = catalogue(), settings()
    folders = [str(entry.folder) for entry in found.entries]
    first = _Kept(models=tuple(str(entry.folder) for entry in found.default()), gallery=" ".join(told.gallery))
    kept: _Kept = st.session_state.get(_KEPT) or first
    folders += [model for model in kept.models if model not in folders]
    names = {str(entry.folder): f"{entry.name} · {entry.card.defense}" for entry in found.entries}
    chosen = st.multiselect(
        "Models",
        folders,
        default=kept.models,
        format_func=lambda folder: names.get(folder, folder),
        accept_new_options=True,
        max_selections=MOST_MODELS,
        help="Bundles of models/zoo; any other path can be typed: the folder of a bundle, timm/NAME or a torchvision "
        "name whose weights lie in the cache.",
        key="stage.models",
    )
    gallery = st.text_input(
        "Gallery",
        value=kept.gallery,
        placeholder="the test images of the first model's run",
        help="An index (several, with spaces between, where each model has one of the same images), a run or bundle "
        "(its test images), a folder of class folders, or a CSV of path,label.",
        key="stage.gallery",
    )
    # Widgets are forgotten where another page is looked at; this is not.
    st.session_state[_KEPT] = now = replace(kept, models=tuple(chosen), gallery=gallery)
    for message in found.problems:
        problem(message)
    if not chosen:
        raise AuditError(
            "there is no model to attack: train one with `python trainer/run.py`, or type the path of a bundle"
            if not folders
            else "choose at least one model"
        )
    return _key(now)


def _key(now: _Kept) -> StageKey:
    """Read the fields; raises `GalleryError`."""
    opened = now.opened
    if opened is None or now.models != opened.models:
        return StageKey(models=now.models, gallery=read_gallery(now.gallery, now.models[0]))
    same = now.gallery == " ".join(opened.gallery.paths)
    return opened if same else replace(opened, gallery=read_gallery(now.gallery, now.models[0]))


def read_gallery(text: str, first: str) -> GallerySource:
    """Read the field of the gallery, the test images of the model `first` where it is empty.

    A path may hold spaces where it is alone. Raises `GalleryError`.
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
