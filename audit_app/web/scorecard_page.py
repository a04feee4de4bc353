"""The page of the scorecard: what is known of models, and audits in the background."""

from pathlib import Path
from typing import Any, Final

import streamlit as st

from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.drawing.score_panel import cautions, curve_charts, parts_table, score_charts, score_tiles
from hardrank.audit_app.report.build import HTML, JSON
from hardrank.audit_app.results.scores import Scores, scores_of_card, scores_of_report
from hardrank.audit_app.web.audit_jobs import AuditDesk, Past, Running
from hardrank.audit_app.web.messages import plain, problem, told
from hardrank.audit_app.web.option_fields import option_fields
from hardrank.audit_app.web.panel import panel
from hardrank.audit_app.web.resources import catalogue, desk
from hardrank.audit_app.web.stage import choose_stage
from hardrank.trainer.attacks.options import declared_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD
from hardrank.trainer.evaluation.robustness import RobustnessOptions

_EVERY_S: Final = 0.5
_EPSILONS: Final = (1, 2, 4, 8, 16)
_STEPS: Final = (4, 8, 16, 32, 64)
_WATCHED: Final = "audit.watched"
_FRESH: Final = "audit.fresh"
_CARDS: Final = "as measured when they were trained"


def scorecard_page() -> None:
    """Draw the page."""
    st.markdown("## How much do the models withstand?")
    with told():
        office = desk()
        shown = st.container()
        with st.expander("Run an audit", icon=":material/play_arrow:"):
            _form(office)
        _background(office)
        with shown:
            _show(office)


# ---------------------------------------------------------------------- what is known


def _show(office: AuditDesk) -> None:
    past = {one.folder.name: one for one in office.past()}
    names = [_CARDS, *past]
    # What was just finished is looked at first.
    fresh = st.session_state.pop(_FRESH, None)
    if fresh in names:
        st.session_state["audit.shown"] = fresh
    chosen = st.selectbox(
        "Figures", names, key="audit.shown", format_func=lambda name: past[name].title if name in past else name
    )
    if chosen == _CARDS:
        _cards()
    else:
        _past(office, past[chosen])


def _cards() -> None:
    found = catalogue()
    known = {entry.name: scores_of_card(entry.card) for entry in found.entries}
    measured = {name: scores for name, scores in known.items() if scores is not None}
    if not measured:
        st.info("No bundle at hand was measured. Train models with `python trainer/run.py`, or run an audit below.")
        return
    begin = [entry.name for entry in found.default() if entry.name in measured] or list(measured)[:1]
    names = st.multiselect("Models", list(measured), default=begin, max_selections=6, key="audit.cards")
    for message in found.problems:
        problem(message)
    if names:
        _scores([measured[name] for name in names])


def _past(office: AuditDesk, one: Past) -> None:
    if one.problem:
        problem(one.problem)
    if one.report is None:
        if one.request is not None:
            st.info("This audit did not come to its end. What was finished is kept.")
            st.button(
                "Go on with it",
                icon=":material/resume:",
                key="audit.resume",
                on_click=_start,
                args=(office, one.request, one.folder),
            )
        return
    _scores(scores_of_report(one.report))
    with st.expander("Threat model and cautions"):
        for line in [*one.report.threat_model, *one.report.cautions]:
            st.markdown(f"- {plain(line)}")
    with st.container(horizontal=True, key="audit.downloads"):
        tables = [model.per_image for model in one.report.models]
        for name in (HTML, JSON, *tables):
            file = one.folder / name
            if file.is_file():
                st.download_button(
                    name,
                    file.read_bytes(),
                    file_name=name,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"file-{name}",
                )


def _scores(models: list[Scores]) -> None:
    panel(score_tiles(models), cautions(models), key="tiles")
    panel(score_charts(models), key="charts")
    if curves := curve_charts(models):
        st.markdown("#### What a larger budget buys the attacker")
        panel(*curves, key="curves")
    with st.expander("All figures, with 95 % intervals", expanded=True):
        panel(parts_table(models), key="parts")


# ---------------------------------------------------------------------- a new one


def _form(office: AuditDesk) -> None:
    with told():
        key = choose_stage()
        left, middle, right = st.columns(3, gap="medium")
        with left:
            attacks = st.multiselect(
                "Attacks",
                list(ATTACKS),
                default=list(SCORECARD),
                key="audit.attacks",
                help="these nine give the ten results of ERS",
                format_func=lambda name: f"{name} · {ATTACKS[name].title}",
            )
            attacked = st.number_input(
                "images attacked",
                1,
                100_000,
                100,
                key="audit.attacked",
                help="a seeded sample; more of them make the intervals narrow",
            )
            seed = st.number_input("seed", 0, 2**31 - 1, 0, key="audit.seed")
        declared = {option.name: option for option in declared_options(RobustnessOptions)}
        with middle:
            norm = _norm(declared)
            most = [declared[name] for name in ("epsilon", "alpha", "steps")]
            robustness = option_fields(most, key=f"audit.{norm}", norm=norm)
        with right:
            rest = [option for name, option in declared.items() if name not in {"norm", "epsilon", "alpha", "steps"}]
            robustness |= option_fields(rest, key="audit")
        curves = st.pills(
            "Budget curves",
            list(_CURVES),
            selection_mode="multi",
            key="audit.curves",
            help="the score at smaller and larger budgets; each point takes as long as an audit of 50 images",
        )
        if st.button("Run the audit", type="primary", icon=":material/play_arrow:", key="audit.run"):
            options = AuditOptions(
                attacks=tuple(attacks),
                attacked=int(attacked),
                seed=int(seed),
                robustness=RobustnessOptions(**robustness, norm=norm),
                curves=tuple(_CURVES[name] for name in curves),
            )
            office.start(AuditRequest(models=key.models, gallery=key.gallery, options=options, loading=key.loading))


def _norm(declared: dict[str, Any]) -> Norm:
    found = option_fields([declared["norm"]], key="audit")["norm"]
    assert isinstance(found, Norm)
    return found


_CURVES: Final = {
    "ERS against ε": Curve(parameter=CurveParameter.EPSILON, values=tuple(value / 255 for value in _EPSILONS)),
    "ERS against steps": Curve(parameter=CurveParameter.STEPS, values=_STEPS),
}


def _start(office: AuditDesk, request: AuditRequest, folder: Path) -> None:
    with told():
        office.start(request, folder)


# ---------------------------------------------------------------------- the one under way


def _background(office: AuditDesk) -> None:
    running = office.running
    if running is None:
        return
    if not running.over:
        st.session_state[_WATCHED] = running.folder.name
        st.fragment(_watch, run_every=_EVERY_S)(office)
    elif running.problem:
        problem(running.problem)
    elif st.session_state.pop(_WATCHED, None) == running.folder.name:
        st.session_state[_FRESH] = running.folder.name
        st.rerun()


def _watch(office: AuditDesk) -> None:
    running = office.running
    if running is None or running.over:
        st.rerun()
    share, words = _standing(running)
    with st.container(horizontal=True, vertical_alignment="center", key="audit.standing"):
        st.progress(share, words)
        st.button("Stop", key="audit.stop", icon=":material/stop:", on_click=office.stop)


def _standing(running: Running) -> tuple[float, str]:
    progress = running.progress
    if progress is None:
        return 0.0, "About to begin …"
    share = progress.done / progress.total if progress.total else 0.0
    return min(1.0, share), plain(f"{progress.stage}: {progress.done} of {progress.total}")
