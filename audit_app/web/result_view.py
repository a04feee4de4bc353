"""The result of a live attack on a page: rankings, numbers, steps, downloads."""

from typing import Final

import streamlit as st

from hardrank.audit_app.audit.folder import slug
from hardrank.audit_app.drawing.live_panel import curves, picture
from hardrank.audit_app.drawing.markup import element, series_key
from hardrank.audit_app.drawing.result_panel import (
    ResultContext,
    figures_table,
    rankings,
    stronger_table,
    survival_table,
    transfer_table,
    verdict_line,
)
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.options import STRONG_RESTARTS, STRONG_STEPS
from hardrank.audit_app.live.record import record
from hardrank.audit_app.live.result import LiveResult
from hardrank.audit_app.live.status import AttackStatus
from hardrank.audit_app.live.targets import watched
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.panel import panel
from hardrank.audit_app.web.pictures import image_name
from hardrank.audit_app.web.resources import attack_queue, session
from hardrank.audit_app.web.session import GallerySelection
from hardrank.audit_app.web.settings import settings

_NAME_PART: Final = 40
"""Characters of an id in a file name, at most."""


def show_result(live: LiveAttack, status: AttackStatus, selection: GallerySelection) -> None:
    """Draw the result of a finished attack on the models and gallery of `selection`."""
    result = status.result
    assert result is not None
    context = _context(live)
    above = st.container()  # filled last: its heading would stand alone while the rankings are drawn
    _rankings(result, context)
    with above:
        st.header("Rankings before and after" + (" (stopped early)" if result.stopped else ""), anchor=False)
        with st.container(horizontal=True, vertical_alignment="center", key="verdict-row"):
            panel(verdict_line(result, context), key="verdict")
            _stronger_button(live, result)
        standard = session().standard
        before = None if standard is None else standard.status().result
        if before is not None:
            panel(stronger_table(before, result, context), key="stronger-table")
    _downloads(live, result, selection)
    steps, numbers, files, others = st.tabs(["Steps", "Numbers", "After JPEG and resizing", "On the other models"])
    with steps:
        _steps()
    with numbers:
        panel(figures_table(result, context), key="figures")
        st.caption(escape_markdown(_cost(result)))
    with files:
        st.caption(
            "The served model ranks the adversarial image after each transform. In parentheses: how far the same "
            "transform moves the original image."
        )
        panel(survival_table(result, context), key="survival")
    with others:
        st.caption(
            "Each adversarial PNG shown to every model. Shaded cells: the model that the image was made against."
        )
        panel(transfer_table(result), key="transfer")


def ranked_items(live: LiveAttack) -> int:
    """Return the number of items that an attack ranks."""
    size = len(live.served[0].embedded)
    return size - 1 if live.victim.id is not None else size


def _context(live: LiveAttack) -> ResultContext:
    by_name = {served.name: served for served in live.served}
    return ResultContext(
        picture=lambda name, row: by_name[name].picture(row),
        name=lambda row: image_name(live.served[0], row),
        attack=live.attack,
        budget=live.options.engine,
        watched=watched(live.attack),
    )


def _rankings(result: LiveResult, context: ResultContext) -> None:
    views = max(len(found.outcome.movements) for found in result.subjects.values())
    view = 0
    if views > 1:
        options = range(views)
        view = (
            st.segmented_control("Ranking of query", options, default=0, format_func=lambda i: f"{i + 1}", key="view")
            or 0
        )
    panel(rankings(result, context, view=view), key="rankings")


def _stronger_button(live: LiveAttack, result: LiveResult) -> None:
    """Offer a stronger attack, unless this one is as strong, or had no gradients."""
    if not result.stopped and not live.options.is_strong and all(one is None for one in live.methods.values()):
        st.button(
            "Try a stronger attack",
            key="stronger",
            icon=":material/fitness_center:",
            on_click=_start_stronger,
            args=(live,),
            help=f"The same attack by APGD, with {STRONG_STEPS} steps or more and {STRONG_RESTARTS} restarts or more. "
            "Its result is compared with this one.",
        )


def _start_stronger(live: LiveAttack) -> None:
    queue = attack_queue(settings().attacks)
    strong = LiveAttack(live.served, live.victim, live.options.stronger(), queue=queue)
    session().start(strong, selection=session().selection, standard=live)


def _downloads(live: LiveAttack, result: LiveResult, selection: GallerySelection) -> None:
    attempt = attempt_name(live)
    with st.container(horizontal=True, key="downloads"):
        for name, found in result.subjects.items():
            st.download_button(
                f"PNG for {escape_markdown(name)}",
                found.png,
                file_name=f"{slug(name)}-{attempt}.png",
                mime="image/png",
                icon=":material/download:",
                on_click="ignore",
                key=f"png-{slug(name)}",
                help="The exact adversarial image within the border of the original: a server of this model sees these "
                "pixels.",
            )
        if not result.stopped:
            st.download_button(
                "JSON to replay it",
                record(live, result, selection.gallery, loading=selection.loading).to_json(),
                file_name=f"{'-'.join(map(slug, result.subjects))}-{attempt}.json",
                mime="application/json",
                icon=":material/data_object:",
                on_click="ignore",
                key="record",
                help="`hardrank replay FILE` repeats the attack and compares the pixels.",
            )
    if result.stopped:
        st.caption("An attack that was stopped early cannot be replayed, so there is no JSON.")


def attempt_name(live: LiveAttack) -> str:
    """Name attack, image and target for file names, such as `QA-plus-cat~3.png-to-dog~1.png`."""
    attack = live.options.attack
    signs = {"+": "-plus", "-": "-minus"}
    attack = attack[:-1] + signs[attack[-1]] if attack[-1] in signs else attack
    parts = [slug(attack), slug(live.victim.title)]
    if live.attack.target_count:
        targets = live.options.targets
        more = f"-and-{len(targets) - 1}-more" if targets and targets[1:] else ""
        parts += ["to", "drawn" if targets is None else slug(targets[0])[:_NAME_PART] + more]
    return "-".join(part[:_NAME_PART] for part in parts)


@st.fragment
def _steps() -> None:
    """Browse the images of the steps."""
    # Fragments outlive the session: they must not hold an attack that was dropped.
    live = session().live
    if live is None:
        st.rerun()
    status = live.status()
    kept = {name: live.keyframes(name) for name in status.names}
    last = max(len(frames) for frames in kept.values()) - 1
    place = st.slider("image", 0, last, last, key="frame", label_visibility="collapsed") if last > 0 else 0
    cards = []
    for i, (name, frames) in enumerate(kept.items()):
        if frames:
            frame = frames[min(place, len(frames) - 1)]
            spent = status.budgets[name].spent(frame.point)
            word = "query" if status.budgets[name].counts_queries else "step"
            heading = element("h3", series_key(i), f"{name}, {word} {spent}")
            cards.append(element("article", heading, picture(frame, live.options.engine), class_="card"))
    panel(
        element("div", *cards, class_="cards"),
        element("div", *curves(status, ranked_items(live), watched(live.attack)), class_="curves"),
        key="steps",
    )


def _cost(result: LiveResult) -> str:
    costs = []
    for name, found in result.subjects.items():
        spent = f"{found.queries} queries" if found.queries is not None else f"{found.passes} passes"
        costs.append(f"{name}: {spent} in {found.seconds:.1f} s")
    return "; ".join(costs)
