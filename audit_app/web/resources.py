"""What visitors share (models, galleries, places in the queue), and what each has alone."""

import gc
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st
import torch
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.gallery.embedded import embed_galleries
from hardrank.audit_app.gallery.served import ServedGallery, serve_gallery
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.live.queue import AttackQueue
from hardrank.audit_app.subjects.bundles import Catalogue, list_bundles, modification_stamp
from hardrank.audit_app.subjects.loading import SubjectOptions, load_subject, load_subjects
from hardrank.audit_app.web.audit_jobs import AuditDesk
from hardrank.audit_app.web.background_cache import Making, Shelf
from hardrank.audit_app.web.settings import AppSettings, read_settings
from hardrank.audit_app.web.visitor import Visitor
from hardrank.models.progress import OnProgress, StageProgress

_STAGES = 3
"""Sets of models and galleries that are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """Which models, on which gallery."""

    models: tuple[str, ...]
    gallery: GallerySource
    loading: SubjectOptions = field(default_factory=SubjectOptions)


Stage = tuple[ServedGallery, ...]
"""Models on one gallery, as they are served."""


def settings() -> AppSettings:
    """What the app was told on its command line; raises `AuditError`."""
    return read_settings(sys.argv[1:])


@st.cache_resource(show_spinner=False)
def turnstile(places: int) -> AttackQueue:
    """The queue of live attacks."""
    return AttackQueue(places)


@st.cache_resource(show_spinner=False)
def _shelf() -> Shelf[Stage]:
    return Shelf(_STAGES)


@st.cache_resource(show_spinner=False)
def _transfers() -> Shelf[dict[str, Transfer]]:
    return Shelf(_STAGES)


def ask_transfers(key: StageKey, stage: Stage, surrogate: str) -> Making[dict[str, Transfer]]:
    """See how far the surrogate of transfer attacks on a stage has come."""
    return _transfers().ask(
        (key, modification_stamp([*key.models, *key.gallery.paths, surrogate]), surrogate),
        lambda report: _load_transfers(stage, surrogate, report),
    )


def _load_transfers(stage: Stage, surrogate: str, report: OnProgress) -> dict[str, Transfer]:
    torch.set_num_threads(os.cpu_count() or 1)
    subject = load_subject(surrogate)
    return {served.name: transfer_from(subject, served.embedded, on_progress=report) for served in stage}


@st.cache_resource(scope="session", on_release=Visitor.leave, show_spinner=False)
def visitor() -> Visitor:
    """This visitor, who is forgotten with the browser's tab."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return Visitor()
    session, server = context.session_id, runtime.get_instance()
    return Visitor(lambda: server.is_active_session(session))


def catalogue() -> Catalogue:
    """The bundles at hand."""
    return list_bundles(settings().zoo)


def ask_stage(key: StageKey) -> Making[Stage]:
    """See how far models and gallery have come; they are loaded in a thread of their own."""
    return _shelf().ask((key, modification_stamp([*key.models, *key.gallery.paths])), lambda report: _load(key, report))


def _load(key: StageKey, report: OnProgress) -> Stage:
    torch.set_num_threads(os.cpu_count() or 1)  # of this thread; live attacks take fewer
    report(StageProgress(stage="models", done=0, total=len(key.models)))
    subjects = load_subjects(key.models, key.loading)
    report(StageProgress(stage="list of images", done=0, total=1))
    galleries = embed_galleries(subjects, key.gallery.open(), on_progress=report)
    stage = tuple(serve_gallery(embedded, on_progress=report) for embedded in galleries)
    _settle()
    return stage


def _settle() -> None:
    """Have done what else the first attack, and every redraw, would wait for.

    The first gradient imports a good part of PyTorch. And a collection of garbage walks over all objects and lets no
    thread work meanwhile: those that are here to stay are taken out of its way. What was put aside for models that the
    shelf has forgotten since is looked at again first, or it would stay for good.
    """
    pixels = torch.zeros(1, requires_grad=True)
    torch.autograd.grad(pixels.sum(), pixels)
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@st.cache_resource(show_spinner=False)
def _desk(root: Path) -> AuditDesk:
    return AuditDesk(root)


def desk() -> AuditDesk:
    """Where audits run in the background, for all visitors."""
    return _desk(settings().audits)
