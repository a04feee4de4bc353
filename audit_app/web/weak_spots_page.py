"""The weak spots page: the images and classes with the lowest scores, one click away from the live attack."""

from dataclasses import dataclass
from html import escape
from typing import Final

import streamlit as st

from hardrank.audit_app.audit.request import REQUEST, AuditRequest
from hardrank.audit_app.drawing.formatting import format_plural, format_score
from hardrank.audit_app.drawing.score_figures import goal_of
from hardrank.audit_app.drawing.score_panel import SMALL_SAMPLE
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.results.image_scores import ImageScores, read_scores
from hardrank.audit_app.results.schema import AuditReport, ModelEntry
from hardrank.audit_app.results.weakest import weakest_groups
from hardrank.audit_app.web.audit_jobs import PastAudit
from hardrank.audit_app.web.chosen_images import open_in_live_attack
from hardrank.audit_app.web.gallery_selection import open_selection
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.messages import errors_shown, show_error
from hardrank.audit_app.web.pictures import thumbnails
from hardrank.audit_app.web.resources import audit_jobs
from hardrank.audit_app.web.selection_fields import MOST_MODELS
from hardrank.audit_app.web.session import GallerySelection
from hardrank.audit_app.web.settings import settings
from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing, file_pixels
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, make_attack

_SHOWN: Final = 12
_CLASSES: Final = 6
_OF_A_CLASS: Final = 3
_ALL: Final = "all attacks, on average"
_LIVE: Final = "screens/live_attack.py"
_SIDE: Final = 264
"""Pixels of an image, twice its side on the page for dense displays."""


@dataclass(frozen=True, kw_only=True)
class _View:
    """What the page shows."""

    audit: PastAudit
    report: AuditReport
    model: ModelEntry
    scores: ImageScores
    by: str | None
    """The figure to sort by; None: the mean of all."""
    gallery: ImageGallery | None
    """None if the images are not available."""


def weak_spots_page() -> None:
    """Draw the page."""
    with errors_shown():
        past = {str(one.folder): one for one in audit_jobs().finished_audits() if one.report is not None}
        if not past:
            st.info(
                f"There is no audit in {' or '.join(map(str, settings().audit_folders))} yet. Run one on the page "
                f"**Scorecard**, or with `hardrank audit --out {settings().audit_folders[-1]}/NAME`."
            )
            return
        left, middle, right = st.columns([3, 2, 2], gap="medium")
        name = left.selectbox("Audit", list(past), format_func=lambda one: past[one].title, key="weak.audit")
        one = past[name]
        assert one.report is not None
        models = {model.name: model for model in one.report.models}
        model = models[middle.selectbox("Model", list(models), key="weak.model")]
        found = read_scores(one.folder, model)
        key = right.selectbox("Attack", [_ALL, *found.keys], key="weak.key")
        by = None if key == _ALL else key
        view = _View(audit=one, report=one.report, model=model, scores=found, by=by, gallery=_gallery(one, one.report))
        _images(view)
        _classes(view)


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(folder: str, changed: float, _request: AuditRequest) -> ImageGallery:
    return _request.gallery.open()


def _gallery(one: PastAudit, report: AuditReport) -> ImageGallery | None:
    """Open the gallery of an audit; return None and show why if it is not available or has changed."""
    if one.request is None:
        show_error(
            one.error
            or f"the images of this audit are not shown, since {REQUEST} is missing; run the same command again to "
            "write it (nothing is attacked again)"
        )
        return None
    try:
        found = _opened(str(one.folder), one.when.timestamp(), one.request)
    except HardrankError as error:
        show_error(f"the images of this audit are not shown: {error}")
        return None
    known = set(found.ids)
    if len(found) < report.settings.gallery.items or not known.issuperset(
        entry.id for model in report.models for entry in model.worst_queries
    ):
        show_error("the gallery has changed since this audit, so its images are not shown; run the audit again")
        return None
    return found


def _images(view: _View) -> None:
    by, found = view.by, view.scores
    st.header("Weakest images", anchor=False)
    mean = "Mean score over all attacks, from 0 (they succeed) to 100: higher is more robust."
    st.caption(escape_markdown(goal_of(by, view.model.figures[by].help) if by else mean))
    if len(found.ids) < SMALL_SAMPLE:
        st.caption(
            f"Only {format_plural(len(found.ids), 'image was', 'images were')} attacked: others may be weaker, and "
            "the means of classes are uncertain."
        )
    scores = found.by(by)
    with st.container(key="weak-queries"):
        for place in found.worst(by, _SHOWN):
            weakest = "" if by else f", weakest against {found.weakest(place)}"
            _image(view, place, f"score {_score(view, scores[place])}{weakest}", group="query")


def _score(view: _View, value: float) -> str:
    return format_score(value, upper_bound=view.model.upper_bound)


def _classes(view: _View) -> None:
    by, found = view.by, view.scores
    if len(set(found.classes)) < 2:
        return
    st.header("Weakest classes", anchor=False)
    scores = found.by(by)
    with st.container(key="weak-classes"):
        for number, group in enumerate(weakest_groups(found.classes, scores, _CLASSES)):
            images = format_plural(len(group.positions), "image", "images")
            with st.container(border=True, key=f"weak-class-{number}"):
                st.markdown(
                    f"**{escape_markdown(group.label or 'no class')}**  \n"
                    f"mean score {_score(view, group.score)} over {images}"
                )
                with st.container(key=f"weak-class-images-{number}"):
                    for place in group.positions[:_OF_A_CLASS]:
                        _image(view, place, f"score {_score(view, scores[place])}", group=f"class{number}", named=False)


def _image(view: _View, place: int, caption: str, *, group: str, named: bool = True) -> None:
    """Draw an image with a button that opens it in the live attack."""
    id, label = view.scores.ids[place], view.scores.classes[place]
    with st.container(gap="small", key=f"weak-{group}-{place}"):
        if view.gallery is not None:
            pre = Preprocessing.from_dict(view.model.preprocessing)
            st.html(f'<img src="{_uri(view.gallery, id, pre)}" alt="{escape(label or id)}" style="{_STYLE}">')
        name = f"{escape_markdown(label or id)}  \n" if named else ""
        st.caption(f"{name}{escape_markdown(caption)}")
        st.button(
            "Attack",
            key=f"open-{group}-{place}",
            disabled=view.audit.request is None or view.gallery is None,
            help=f"Open {escape_markdown(id)} in the live attack",
            on_click=_open,
            args=(view, place),
        )
    if st.session_state.pop("weak.opened", False):
        st.switch_page(_LIVE)


_STYLE: Final = "width:100%;aspect-ratio:1;image-rendering:pixelated;border-radius:.5rem;display:block"


def _uri(gallery: ImageGallery, id: str, pre: Preprocessing) -> str:
    try:
        return thumbnails().uri(gallery, (id, pre), lambda: file_pixels(gallery.read(gallery.row(id)), pre), side=_SIDE)
    except UndecodableImageError:
        return "data:,"


def _open(view: _View, place: int) -> None:
    """Open the live attack with this image, the models of the audit, and its most successful attack."""
    request, settings = view.audit.request, view.report.settings
    assert request is not None
    open_selection(GallerySelection(models=_models(view, request), gallery=request.gallery, loading=request.loading))
    key = view.by or view.scores.weakest(place)
    attack = next((name for name in settings.attacks if key in _keys(name)), None)
    open_in_live_attack(
        view.scores.ids[place],
        attack=attack,
        norm=Norm(settings.norm),
        epsilon=settings.epsilon,
        alpha=settings.alpha,
    )
    st.session_state["weak.opened"] = True


def _models(view: _View, request: AuditRequest) -> tuple[str, ...]:
    """Return the models of the audit; if they are too many for the page, the one that is shown and the first others."""
    place = [model.name for model in view.report.models].index(view.model.name)
    own = request.models[place]
    others = [model for model in request.models if model != own]
    kept = {own, *others[: MOST_MODELS - 1]}
    return tuple(model for model in request.models if model in kept)


def _keys(attack: str) -> list[str]:
    return [figure.key for figure in make_attack(attack).figures] if attack in ATTACKS else []
