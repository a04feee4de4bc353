"""What all visitors share (models, galleries, the queue, audit jobs), and the session of each."""

import gc
from pathlib import Path

import streamlit as st
import torch
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from hardrank.audit_app.audit.checking import check_audit
from hardrank.audit_app.audit.estimate import AuditEstimate, estimate_audit
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.blackbox.transfer import Transfer, transfer_from
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries
from hardrank.audit_app.gallery.served import ServedGallery, serve_gallery
from hardrank.audit_app.live.queue import AttackQueue
from hardrank.audit_app.subjects.loading import load_subject, load_subjects
from hardrank.audit_app.subjects.model_names import split_label, split_weights
from hardrank.audit_app.web.audit_jobs import AuditJobs
from hardrank.audit_app.web.background_cache import BackgroundCache, CacheEntry
from hardrank.audit_app.web.session import GallerySelection, VisitorRegistry, VisitorSession
from hardrank.audit_app.web.settings import settings
from hardrank.models.bundle import CARD
from hardrank.models.cores import usable_cores
from hardrank.models.files import expand_user
from hardrank.models.progress import OnProgress, StageProgress
from hardrank.serving.store.manifest import MANIFEST

_MOST_LOADED = 3
"""How many sets of models and galleries are kept in memory."""
_MOST_ESTIMATES = 64

LoadedGallery = tuple[ServedGallery, ...]
"""One gallery as each of the selected models serves it."""


def modification_stamp(*places: str) -> tuple[tuple[str, int], ...]:
    """Return a stamp of the files of models and galleries that changes whenever they do."""
    marks = []
    for text in places:
        _, place = split_label(text)
        path = expand_user(place)
        if not path.exists():
            path = split_weights(place)[1] or path
        known = [path / name for name in (CARD, MANIFEST, "items.sqlite", "items.sqlite-wal")]
        # Reading an index changes its folder too: it leaves an empty SQLite log there.
        files = [file for file in known if file.is_file() and file.stat().st_size] or [path]
        marks += [(str(file), file.stat().st_mtime_ns) for file in files if file.exists()]
    return tuple(marks)


@st.cache_resource(show_spinner=False)
def attack_queue(limit: int) -> AttackQueue:
    """Return the queue of live attacks, of which `limit` run at once."""
    return AttackQueue(limit)


@st.cache_resource(show_spinner=False)
def _galleries() -> BackgroundCache[LoadedGallery]:
    return BackgroundCache(_MOST_LOADED)


@st.cache_resource(show_spinner=False)
def _transfers() -> BackgroundCache[dict[str, Transfer]]:
    return BackgroundCache(_MOST_LOADED)


def load_transfers(
    selection: GallerySelection, loaded: LoadedGallery, surrogate: str
) -> CacheEntry[dict[str, Transfer]]:
    """Load the surrogate of transfer attacks in the background; returns the current state."""
    return _transfers().get(
        (selection, modification_stamp(*selection.models, *selection.gallery.paths, surrogate), surrogate),
        lambda on_progress: _load_transfers(loaded, surrogate, on_progress),
    )


def _load_transfers(loaded: LoadedGallery, surrogate: str, on_progress: OnProgress) -> dict[str, Transfer]:
    torch.set_num_threads(usable_cores())
    subject = load_subject(surrogate)
    return {served.name: transfer_from(subject, served.embedded, on_progress=on_progress) for served in loaded}


@st.cache_resource(scope="session", on_release=VisitorSession.close, show_spinner=False)
def session() -> VisitorSession:
    """Return the session of this visitor, which ends with the browser tab."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return VisitorSession()
    session_id, server = context.session_id, runtime.get_instance()
    return VisitorSession(lambda: server.is_active_session(session_id))


@st.cache_resource(show_spinner=False)
def visitors() -> VisitorRegistry:
    """Return the sessions of all browser tabs."""
    return VisitorRegistry()


def load_gallery(selection: GallerySelection) -> CacheEntry[LoadedGallery]:
    """Load models and gallery in the background; returns the current state."""
    return _galleries().get(
        (selection, modification_stamp(*selection.models, *selection.gallery.paths)),
        lambda on_progress: _load(selection, on_progress),
    )


@st.cache_resource(show_spinner=False)
def _estimates() -> BackgroundCache[AuditEstimate]:
    return BackgroundCache(_MOST_ESTIMATES)


def estimate_duration(selection: GallerySelection, options: AuditOptions) -> CacheEntry[AuditEstimate]:
    """Estimate how long an audit takes, in the background; returns the current state.

    Models and gallery are loaded, as for a live attack. A pace is measured once for the same attacks, norm and engine;
    other options change only what is computed from it.
    """
    loaded = load_gallery(selection)
    if loaded.value is None:
        return CacheEntry(progress=loaded.progress, error=loaded.error)
    galleries = [served.embedded for served in loaded.value]
    robustness = options.robustness
    stamp = modification_stamp(*selection.models, *selection.gallery.paths)
    found = _estimates().get(
        (selection, stamp, options.attacks, robustness.norm, robustness.engine),
        lambda on_progress: _estimate(galleries, options),
    )
    return found if found.value is None else CacheEntry(value=found.value.with_options(options, len(galleries[0])))


def _estimate(galleries: list[EmbeddedGallery], options: AuditOptions) -> AuditEstimate:
    torch.set_num_threads(usable_cores())  # of this thread, as of the audit's
    check_audit(galleries, options, None)
    return estimate_audit(galleries, options)


def _load(selection: GallerySelection, on_progress: OnProgress) -> LoadedGallery:
    torch.set_num_threads(usable_cores())  # of this thread; live attacks use fewer
    on_progress(StageProgress(stage="models", done=0, total=len(selection.models)))
    subjects = load_subjects(selection.models, selection.loading)
    on_progress(StageProgress(stage="list of images", done=0, total=1))
    galleries = embed_galleries(subjects, selection.gallery.open(), on_progress=on_progress)
    loaded = tuple(serve_gallery(embedded, on_progress=on_progress) for embedded in galleries)
    _warm_up()
    return loaded


def _warm_up() -> None:
    """Do the work that the first attack and every redraw would otherwise wait for.

    The first gradient imports a good part of PyTorch. A garbage collection walks over all objects and blocks all
    threads: objects that stay are frozen, so that it skips them. Objects frozen earlier are examined again first, since
    some belong to models that the cache has dropped since.
    """
    pixels = torch.zeros(1, requires_grad=True)
    torch.autograd.grad(pixels.sum(), pixels)
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@st.cache_resource(show_spinner=False)
def _audit_jobs(folders: tuple[Path, ...]) -> AuditJobs:
    return AuditJobs(*folders)


def audit_jobs() -> AuditJobs:
    """Return the audits that run in the background, for all visitors."""
    return _audit_jobs(settings().audit_folders)
