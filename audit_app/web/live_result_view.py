"""The result of a live attack on the page: rankings, numbers, pictures of the way, downloads."""

import json
from typing import Any

import streamlit as st

from hardrank.audit_app.audit.runner import slug
from hardrank.audit_app.drawing.live_panel import curves, picture
from hardrank.audit_app.drawing.markup import element
from hardrank.audit_app.drawing.result_panel import (
    Shown,
    figures_table,
    rankings,
    survival_table,
    transfer_table,
    verdicts,
)
from hardrank.audit_app.live.aims import watched
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.result import LiveResult
from hardrank.audit_app.live.status import AttackStatus
from hardrank.audit_app.replay import record
from hardrank.audit_app.web.panel import panel
from hardrank.audit_app.web.pictures import called
from hardrank.audit_app.web.resources import StageKey, visitor


def show_result(live: LiveAttack, status: AttackStatus, key: StageKey) -> None:
    """Draw what a finished attack came to; `key` says where its models and gallery lie."""
    result = status.result
    assert result is not None
    shown = _shown(live)
    st.markdown("#### " + ("As far as it came" if result.stopped else "What became of the rankings"))
    panel(verdicts(result, shown), key="verdicts")
    _rankings(live, result, shown)
    _downloads(live, result, key)
    how, numbers, files, others = st.tabs(["How it went", "Numbers", "Does it survive?", "Does it transfer?"])
    with how:
        _way()
    with numbers:
        panel(figures_table(result, shown), key="figures")
        st.caption(_cost(result))
    with files:
        st.caption(
            "The adversarial image as a file, treated, and shown to the served model again. In brackets: how far the "
            "untouched image moves by the same treatment."
        )
        panel(survival_table(result, shown), key="survival")
    with others:
        st.caption(
            "The exact PNG made against one model, shown to each; the shaded cells are the white-box results. A model "
            "that is attacked through another one gives less away."
        )
        panel(transfer_table(result), key="transfer")


def ranked_items(live: LiveAttack) -> int:
    """How many items the rankings of an attack have."""
    size = len(live.served[0].embedded)
    return size - 1 if live.victim.id is not None else size


def _shown(live: LiveAttack) -> Shown:
    by_name = {served.name: served for served in live.served}
    return Shown(
        picture=lambda name, row: by_name[name].picture(row),
        name=lambda row: called(live.served[0], row),
        attack=live.attack,
        budget=live.options.engine,
        watched=watched(live.attack),
    )


def _rankings(live: LiveAttack, result: LiveResult, shown: Shown) -> None:
    views = max(len(found.outcome.movements) for found in result.subjects.values())
    view = 0
    if views > 1:
        options = range(views)
        view = (
            st.segmented_control("Ranking of query", options, default=0, format_func=lambda i: f"{i + 1}", key="view")
            or 0
        )
    panel(rankings(result, shown, view=view), key="rankings")


def _downloads(live: LiveAttack, result: LiveResult, key: StageKey) -> None:
    with st.container(horizontal=True, key="downloads"):
        for name, found in result.subjects.items():
            st.download_button(
                f"PNG for {name}",
                found.png,
                file_name=f"{slug(name)}-{slug(live.options.attack)}.png",
                mime="image/png",
                icon=":material/download:",
                on_click="ignore",
                key=f"png-{slug(name)}",
                help="the exact adversarial image, in the border of the untouched one: a server of this model sees "
                "these very pixels",
            )
        st.download_button(
            "JSON to repeat it",
            _json(record(live, result, key.gallery, loading=key.loading)),
            file_name="attack.json",
            mime="application/json",
            icon=":material/data_object:",
            on_click="ignore",
            key="record",
            help="python audit_app/replay.py attack.json runs the same attack again, to the same pixels",
        )


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


@st.fragment
def _way() -> None:
    """Let one look at the pictures of the way."""
    # Fragments outlive the visit: they must not hold an attack that was forgotten.
    live = visitor().live
    if live is None:
        st.rerun()
    status = live.status()
    kept = {name: live.keyframes(name) for name in status.names}
    last = max(len(frames) for frames in kept.values()) - 1
    place = st.slider("picture", 0, last, last, key="frame", label_visibility="collapsed") if last > 0 else 0
    cards = []
    for i, (name, frames) in enumerate(kept.items()):
        if frames:
            frame = frames[min(place, len(frames) - 1)]
            spent = status.budgets[name].spent(frame.point)
            word = "question" if status.budgets[name].asks else "step"
            heading = element("h3", element("span", class_=f"key series-{i}"), f"{name}, {word} {spent}")
            cards.append(element("article", heading, picture(frame, live.options.engine), class_="card"))
    panel(
        element("div", *cards, class_="cards"),
        element("div", *curves(status, ranked_items(live), watched(live.attack)), class_="curves"),
        key="way",
    )


def _cost(result: LiveResult) -> str:
    said = []
    for name, found in result.subjects.items():
        asked = f"{found.queries} questions" if found.queries is not None else f"{found.passes} passes"
        said.append(f"{name}: {asked} in {found.seconds:.1f} s")
    return "; ".join(said)
