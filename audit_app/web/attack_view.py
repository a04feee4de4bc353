"""A live attack on a page: what is planned, the running attack, its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.drawing.live_panel import live_panel
from hardrank.audit_app.drawing.markup import png_uri
from hardrank.audit_app.drawing.plot_panel import Captioned, answers_panel, plot_panel
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.live.aims import AIMS, STORIES, watched
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.status import AttackPhase, AttackStatus
from hardrank.audit_app.ranking.movement import head, rank_items
from hardrank.audit_app.web.choosing import IMAGE, TARGETS, ask, asked, choose_image, choose_targets
from hardrank.audit_app.web.live_form import Form, live_form
from hardrank.audit_app.web.live_result_view import ranked_items, show_result
from hardrank.audit_app.web.messages import problem, told
from hardrank.audit_app.web.panel import panel
from hardrank.audit_app.web.pictures import called, kind, thumbnail
from hardrank.audit_app.web.plan import Plan, current_plan
from hardrank.audit_app.web.resources import Stage, StageKey, settings, turnstile, visitor
from hardrank.models.preprocessing import file_pixels

_EVERY_S: Final = 0.15
"""Seconds between two looks at a running attack."""
_ANSWERS: Final = 8


@dataclass(frozen=True)
class Areas:
    """Places of a page, from top to bottom; what is drawn first may lie below."""

    hero: DeltaGenerator
    buttons: DeltaGenerator
    bar: DeltaGenerator
    more: DeltaGenerator
    outcome: DeltaGenerator


Transfers = Callable[[], Mapping[str, Transfer]]
"""Gives the methods of a transfer attack by model; waits until they are there."""


def attack_view(
    areas: Areas, key: StageKey, stage: Stage, *, methods: tuple[SearchMethod, ...], transfers: Transfers | None = None
) -> None:
    """Draw all of a live attack: what is planned, the fields, the running attack or its result."""
    form = live_form(areas.bar, areas.more, stage, methods=methods)
    plan = current_plan(stage, k=form.k)
    with areas.hero:
        _hero(stage, plan, form)
    with areas.buttons:
        _buttons(stage, plan, form, transfers)
    with areas.outcome:
        _outcome(stage, key, plan)


# ---------------------------------------------------------------------- before


def _hero(stage: Stage, plan: Plan, form: Form) -> None:
    gallery = stage[0].gallery
    ids = plan.targets.get(form.attack, ())
    targets = [
        Captioned(thumbnail(stage[0], row), _aim(form.attack, i, len(ids)), kind(stage[0], row))
        for i, row in enumerate(map(gallery.row, ids))
    ]
    aim = "the one beside it" if len(ids) == 1 else "those beside it" if ids else "one drawn from the seed"
    story = STORIES[form.attack].format(aim=aim)
    norm, epsilon = form.engine["norm"], form.engine["epsilon"]
    promise = (
        f"No value of a pixel changes by more than {255 * epsilon:g} of 255."
        if norm == "linf"
        else f"All changes together have a length of at most {epsilon:g} (L2, of pixels in 0 … 1)."
    )
    panel(plot_panel(_picture(stage, plan), targets, story=story, promise=promise), key="plot")


def _aim(attack: str, place: int, count: int) -> str:
    called = AIMS[attack].called
    return f"the {called}" if count == 1 else f"{called} {place + 1}"


def _picture(stage: Stage, plan: Plan) -> Captioned:
    """The image under attack."""
    victim = plan.victim
    if victim.id is not None:
        row = stage[0].gallery.row(victim.id)
        return Captioned(thumbnail(stage[0], row), "the image", kind(stage[0], row))
    assert victim.data is not None
    pixels = file_pixels(victim.data, stage[0].subject.preprocessing)
    return Captioned(png_uri(encode_png(pixels)), "the image", "uploaded")


def _buttons(stage: Stage, plan: Plan, form: Form, transfers: Transfers | None) -> None:
    live = visitor().live
    busy = live is not None and not live.status().phase.over
    with st.container(horizontal=True, key="buttons"):
        if st.button("Attack", type="primary", icon=":material/bolt:", key="attack", disabled=busy):
            with told():
                _begin(stage, plan, form, transfers)
                st.rerun()
        st.button("Another image", icon=":material/image_search:", key="choose-image", on_click=ask, args=(IMAGE,))
        if form.attack in AIMS:
            label = f"Another {AIMS[form.attack].called}"
            st.button(label, icon=":material/my_location:", key="choose-targets", on_click=ask, args=(TARGETS,))
    if asked() == IMAGE:
        choose_image(stage, plan)
    elif asked() == TARGETS and form.attack in AIMS:
        choose_targets(stage, plan, form.attack)


def _begin(stage: Stage, plan: Plan, form: Form, transfers: Transfers | None) -> None:
    options = form.options(plan.targets.get(form.attack, ()))
    methods = transfers() if transfers is not None and form.method is SearchMethod.TRANSFER else {}
    places = turnstile(settings().attacks)
    visitor().begin(LiveAttack(stage, plan.victim, options, transfers=methods, queue=places))


# ---------------------------------------------------------------------- while it runs, and after


def _outcome(stage: Stage, key: StageKey, plan: Plan) -> None:
    live = visitor().live
    if live is None or live.served != stage:
        st.markdown("#### What the models answer now")
        panel(answers_panel(_answers(stage, plan)), key="answers")
        return
    status = live.status()
    if not status.phase.over:
        st.fragment(_watch, run_every=_EVERY_S)()
    elif status.result is None:
        problem(status.message or "the attack was stopped")
    else:
        show_result(live, status, key)


def _watch() -> None:
    """Look at the running attack; when it is over, the page is drawn anew with its result."""
    # Fragments outlive the visit: they must not hold an attack that was forgotten.
    live = visitor().live
    if live is None or (status := live.status()).phase.over:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", key="standing"):
        st.button("Stop", key="stop", icon=":material/stop:", on_click=live.stop, disabled=status.stopped)
        st.caption(_standing(status))
    drawn = live_panel(status, live.options.engine, ranked=ranked_items(live), watched=watched(live.attack))
    panel(drawn, key="running", looked_at=bool(status.frames))


def _standing(status: AttackStatus) -> str:
    if status.phase is AttackPhase.WAITING:
        return f"Waiting: {status.ahead} before yours." if status.ahead else "About to begin …"
    if status.phase is AttackPhase.JUDGING:
        return "The served models judge the images …"
    return f"Attacking for {status.seconds:.1f} s"


def _answers(stage: Stage, plan: Plan) -> list[tuple[str, list[Captioned]]]:
    """What each model answers to the untouched image."""
    found = []
    for served in stage:
        victim = plan.victim
        own: list[int] = []
        if victim.id is not None:
            own = [served.gallery.row(victim.id)]
            point = served.matrix[own[0]]
        else:
            assert victim.data is not None
            point = served.embed_file(victim.data)
        rows = head(rank_items(np.asarray(served.matrix @ point), left_out=own), _ANSWERS).tolist()
        found.append(
            (
                served.name,
                [Captioned(thumbnail(served, row), str(i), called(served, row)) for i, row in enumerate(rows, 1)],
            )
        )
    return found
