"""The page of weak spots: the images and classes on which a model held least, a click away from the live attack."""

from typing import Final

import streamlit as st

from audit_app.audit_desk import Past
from audit_app.collection import Collection
from audit_app.drawing.markup import png_uri
from audit_app.drawing.score_figures import WANTED
from audit_app.errors import AuditError
from audit_app.exact_png import crop_of, encode_png
from audit_app.image_scores import ImageScores, read_scores, worst_classes
from audit_app.schema import AuditReport, ModelEntry
from audit_app.web.messages import plain, problem, told
from audit_app.web.plan import ask_to_open
from audit_app.web.resources import desk
from audit_app.web.stage import open_stage
from models.preprocessing import Preprocessing, UndecodableImageError
from trainer.attacks.registry import ATTACKS, make_attack

_SHOWN: Final = 12
_CLASSES: Final = 6
_OF_A_CLASS: Final = 6
_ALL: Final = "all of them, on average"
_LIVE: Final = "screens/live_attack.py"


def weak_spots_page() -> None:
    """Draw the page."""
    st.markdown("## Where do they hold least?")
    with told():
        past = {one.folder.name: one for one in desk().past() if one.report is not None}
        if not past:
            st.info(
                "Weak spots come from an audit, and there is none yet: run one on the page **Scorecard**, or with "
                "`python audit_app/run.py`."
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
        collection = _collection(one)
        _queries(one, one.report, model, found, by, collection)
        _classes(one, one.report, model, found, by, collection)


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(folder: str, changed: float, _past: Past) -> Collection:
    assert _past.request is not None
    return _past.request.gallery.open()


def _collection(one: Past) -> Collection | None:
    """Open the gallery of an audit; None, with a message, where it is not at hand or another one now."""
    assert one.report is not None
    if one.request is None:
        problem("this audit was made by the command, which does not say where its images lie; they are not shown")
        return None
    try:
        found = _opened(str(one.folder), one.when.timestamp(), one)
    except AuditError as error:
        problem(str(error))
        return None
    known = set(found.ids)
    if len(found) < one.report.settings.gallery.items or not known.issuperset(
        entry.id for model in one.report.models for entry in model.worst_queries
    ):
        problem("the gallery of this audit has changed since; its images are not shown")
        return None
    return found


def _queries(
    one: Past, report: AuditReport, model: ModelEntry, found: ImageScores, by: str | None, collection: Collection | None
) -> None:
    st.markdown("#### The worst images")
    st.caption(plain(WANTED.get(by, "") if by else "The mean score over all attacks, from 0 (they succeed) to 100."))
    scores = found.by(by)
    with st.container(horizontal=True, gap="medium", key="weak-queries"):
        for place in found.worst(by, _SHOWN):
            key = by or found.weakest(place)
            told_it = f"score {scores[place]:.0f}" + ("" if by else f", weakest {key}")
            _spot(one, report, model, found, place, key, told_it, collection, group="query")


def _classes(
    one: Past, report: AuditReport, model: ModelEntry, found: ImageScores, by: str | None, collection: Collection | None
) -> None:
    if len(set(found.classes)) < 2:
        return
    st.markdown("#### The worst classes")
    scores = found.by(by)
    for number, group in enumerate(worst_classes(found, by, _CLASSES)):
        images = f"{len(group.places)} image{'s' * (len(group.places) != 1)}"
        st.markdown(f"**{plain(group.name or 'no class')}** · mean score {group.score:.0f} over {images}")
        with st.container(horizontal=True, gap="medium", key=f"weak-class-{number}"):
            for place in group.places[:_OF_A_CLASS]:
                key = by or found.weakest(place)
                _spot(
                    one,
                    report,
                    model,
                    found,
                    place,
                    key,
                    f"score {scores[place]:.0f}",
                    collection,
                    group=f"class{number}",
                )


def _spot(
    one: Past,
    report: AuditReport,
    model: ModelEntry,
    found: ImageScores,
    place: int,
    key: str,
    told_it: str,
    collection: Collection | None,
    *,
    group: str,
) -> None:
    """Draw an image with a way to the live attack."""
    id, label = found.ids[place], found.classes[place]
    with st.container(width=132, gap="small", key=f"weak-{group}-{place}"):
        if collection is not None:
            pre = Preprocessing.from_dict(model.preprocessing)
            st.html(f'<img src="{_image(collection, id, pre)}" alt="" style="{_STYLE}">')
        st.caption(f"{plain(label or id)}  \n{plain(told_it)}")
        st.button(
            "Attack it",
            key=f"open-{group}-{place}",
            disabled=one.request is None or collection is None,
            help=f"{id}: open in the live attack",
            on_click=_open,
            args=(one, report, id, key),
        )
    if st.session_state.pop("weak.opened", False):
        st.switch_page(_LIVE)


_STYLE: Final = "width:100%;aspect-ratio:1;image-rendering:pixelated;border-radius:.5rem;display:block"


def _image(collection: Collection, id: str, pre: Preprocessing) -> str:
    try:
        return png_uri(encode_png(crop_of(collection.read(collection.row(id)), pre)))
    except UndecodableImageError:
        return "data:,"


def _open(one: Past, report: AuditReport, id: str, key: str) -> None:
    """Begin the live attack with this image, the models of the audit, and the attack that did the most."""
    assert one.request is not None
    open_stage(one.request.models, one.request.gallery)
    attack = next((name for name in report.settings.attacks if key in _keys(name)), None)
    ask_to_open(id, attack=attack, epsilon=report.settings.epsilon)
    st.session_state["weak.opened"] = True


def _keys(attack: str) -> list[str]:
    return [figure.key for figure in make_attack(attack).figures] if attack in ATTACKS else []
