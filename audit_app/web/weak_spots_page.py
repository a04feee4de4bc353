"""The page of weak spots: the images and classes on which a model held least, a click away from the live attack."""

from dataclasses import dataclass
from typing import Final

import streamlit as st

from hardrank.audit_app.audit.request import REQUEST, AuditRequest
from hardrank.audit_app.drawing.markup import png_uri
from hardrank.audit_app.drawing.score_figures import WANTED
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.results.image_scores import ImageScores, read_scores, worst_classes
from hardrank.audit_app.results.schema import AuditReport, ModelEntry
from hardrank.audit_app.web.audit_jobs import Past
from hardrank.audit_app.web.messages import plain, problem, told
from hardrank.audit_app.web.plan import ask_to_open
from hardrank.audit_app.web.resources import StageKey, desk, settings
from hardrank.audit_app.web.stage import MOST_MODELS, open_stage
from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import Preprocessing, UndecodableImageError, file_pixels
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, make_attack

_SHOWN: Final = 12
_CLASSES: Final = 6
_OF_A_CLASS: Final = 6
_ALL: Final = "all of them, on average"
_LIVE: Final = "screens/live_attack.py"


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What is looked at."""

    audit: Past
    report: AuditReport
    model: ModelEntry
    scores: ImageScores
    by: str | None
    """The figure that decides; None: the mean of all."""
    gallery: ImageGallery | None
    """None: the images are not at hand."""


def weak_spots_page() -> None:
    """Draw the page."""
    st.markdown("## Where do they hold least?")
    with told():
        past = {one.folder.name: one for one in desk().past() if one.report is not None}
        if not past:
            st.info(
                "Weak spots come from an audit, and there is none yet: run one on the page **Scorecard**, or with "
                f"`python audit_app/run.py` and `--out {settings().audits}/NAME`."
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
        shown = _Shown(
            audit=one, report=one.report, model=model, scores=found, by=by, gallery=_collection(one, one.report)
        )
        _queries(shown)
        _classes(shown)


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(folder: str, changed: float, _request: AuditRequest) -> ImageGallery:
    return _request.gallery.open()


def _collection(one: Past, report: AuditReport) -> ImageGallery | None:
    """Open the gallery of an audit; None, with a message, where it is not at hand or another one now."""
    if one.request is None:
        problem(
            one.problem
            or f"this audit does not say where its images lie ({REQUEST} is missing), so they are not shown: the same "
            "command once more writes it, and attacks nothing anew"
        )
        return None
    try:
        found = _opened(str(one.folder), one.when.timestamp(), one.request)
    except HardrankError as error:
        problem(f"the images of this audit are not shown: {error}")
        return None
    known = set(found.ids)
    if len(found) < report.settings.gallery.items or not known.issuperset(
        entry.id for model in report.models for entry in model.worst_queries
    ):
        problem("the gallery of this audit has changed since, so its images are not shown; run the audit anew")
        return None
    return found


def _queries(shown: _Shown) -> None:
    by, found = shown.by, shown.scores
    st.markdown("#### The worst images")
    st.caption(plain(WANTED.get(by, "") if by else "The mean score over all attacks, from 0 (they succeed) to 100."))
    scores = found.by(by)
    with st.container(horizontal=True, gap="medium", key="weak-queries"):
        for place in found.worst(by, _SHOWN):
            weakest = "" if by else f", weakest {found.weakest(place)}"
            _spot(shown, place, f"score {scores[place]:.0f}{weakest}", group="query")


def _classes(shown: _Shown) -> None:
    by, found = shown.by, shown.scores
    if len(set(found.classes)) < 2:
        return
    st.markdown("#### The worst classes")
    scores = found.by(by)
    for number, group in enumerate(worst_classes(found, by, _CLASSES)):
        images = f"{len(group.places)} image{'s' * (len(group.places) != 1)}"
        st.markdown(f"**{plain(group.name or 'no class')}** · mean score {group.score:.0f} over {images}")
        with st.container(horizontal=True, gap="medium", key=f"weak-class-{number}"):
            for place in group.places[:_OF_A_CLASS]:
                _spot(shown, place, f"score {scores[place]:.0f}", group=f"class{number}")


def _spot(shown: _Shown, place: int, told_it: str, *, group: str) -> None:
    """Draw an image with a way to the live attack."""
    id, label = shown.scores.ids[place], shown.scores.classes[place]
    with st.container(width=132, gap="small", key=f"weak-{group}-{place}"):
        if shown.gallery is not None:
            pre = Preprocessing.from_dict(shown.model.preprocessing)
            st.html(f'<img src="{_image(shown.gallery, id, pre)}" alt="" style="{_STYLE}">')
        st.caption(f"{plain(label or id)}  \n{plain(told_it)}")
        st.button(
            "Attack it",
            key=f"open-{group}-{place}",
            disabled=shown.audit.request is None or shown.gallery is None,
            help=f"{id}: open in the live attack",
            on_click=_open,
            args=(shown, place),
        )
    if st.session_state.pop("weak.opened", False):
        st.switch_page(_LIVE)


_STYLE: Final = "width:100%;aspect-ratio:1;image-rendering:pixelated;border-radius:.5rem;display:block"


def _image(gallery: ImageGallery, id: str, pre: Preprocessing) -> str:
    try:
        return png_uri(encode_png(file_pixels(gallery.read(gallery.row(id)), pre)))
    except UndecodableImageError:
        return "data:,"


def _open(shown: _Shown, place: int) -> None:
    """Begin the live attack with this image, the models of the audit, and the attack that did the most."""
    request, settings = shown.audit.request, shown.report.settings
    assert request is not None
    open_stage(StageKey(models=_models(shown, request), gallery=request.gallery, loading=request.loading))
    key = shown.by or shown.scores.weakest(place)
    attack = next((name for name in settings.attacks if key in _keys(name)), None)
    ask_to_open(shown.scores.ids[place], attack=attack, norm=Norm(settings.norm), epsilon=settings.epsilon)
    st.session_state["weak.opened"] = True


def _models(shown: _Shown, request: AuditRequest) -> tuple[str, ...]:
    """Choose the models of the audit, or the one that is looked at and as many others as the page has room for."""
    place = [model.name for model in shown.report.models].index(shown.model.name)
    own = request.models[place]
    others = [model for model in request.models if model != own]
    kept = {own, *others[: MOST_MODELS - 1]}
    return tuple(model for model in request.models if model in kept)


def _keys(attack: str) -> list[str]:
    return [figure.key for figure in make_attack(attack).figures] if attack in ATTACKS else []
