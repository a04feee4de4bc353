"""The scorecard page: scores of models, and audits in the background."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import streamlit as st

from hardrank.audit_app.audit.estimate import LONG_S, AuditEstimate
from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter, budget_options
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.drawing.score_panel import (
    caution_list,
    curve_charts,
    failed_checks,
    parts_table,
    sample_cautions,
    score_charts,
    score_tiles,
)
from hardrank.audit_app.results.schema import HTML, REPORT
from hardrank.audit_app.results.scores import ModelScores, scores_of_card, scores_of_report
from hardrank.audit_app.web.audit_jobs import AuditJobs, PastAudit
from hardrank.audit_app.web.background_cache import CacheEntry
from hardrank.audit_app.web.gallery_selection import progress_bar, select_gallery
from hardrank.audit_app.web.markdown import escape_markdown
from hardrank.audit_app.web.messages import errors_shown, show_error
from hardrank.audit_app.web.option_fields import comparable_budget, in_pixels, option_field, option_fields
from hardrank.audit_app.web.panel import panel
from hardrank.audit_app.web.resources import audit_jobs, estimate_duration
from hardrank.audit_app.web.selection_fields import catalog
from hardrank.audit_app.web.session import GallerySelection
from hardrank.audit_app.web.settings import settings
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD, offered_attacks
from hardrank.trainer.evaluation.robustness import RobustnessOptions

_REDRAW_EVERY_S: Final = 0.5
_EPSILONS: Final = (1, 2, 4, 8, 16)
_STEPS: Final = (4, 8, 16, 32, 64)
_WATCHED: Final = "audit.watched"
_FINISHED: Final = "audit.finished"
_SMALL_INPUT: Final = 64
"""Pixels; the side that the first budget in L2 is converted for."""
_FORM: Final = "audit.form"
_CARDS: Final = "measured after training"


def scorecard_page() -> None:
    """Draw the page."""
    with errors_shown():
        jobs = audit_jobs()
        shown = st.container()
        # Models are loaded, for the estimate of the duration, only once somebody looks at the form.
        form = st.expander("Run an audit", icon=":material/play_arrow:", key=_FORM, on_change="rerun")
        with form:
            _form(jobs, opened=bool(form.open))
        _background(jobs)
        with shown:
            _show(jobs)


# ---------------------------------------------------------------------- scores


def _show(jobs: AuditJobs) -> None:
    past = {str(one.folder): one for one in jobs.finished_audits()}
    names = [_CARDS, *past]
    # An audit that has just finished is shown first.
    finished = st.session_state.pop(_FINISHED, None)
    if finished in names:
        st.session_state["audit.shown"] = finished
    chosen = st.selectbox(
        "Results",
        names,
        key="audit.shown",
        format_func=lambda name: past[name].title if name in past else name,
        help=f"measured after training, or by an audit in {' or '.join(map(str, settings().audit_folders))}",
    )
    if chosen == _CARDS:
        _cards()
    else:
        _past_audit(jobs, past[chosen])


def _cards() -> None:
    found = catalog()
    known = {entry.name: scores_of_card(entry.card) for entry in found.entries}
    measured = {name: scores for name, scores in known.items() if scores is not None}
    if not measured:
        st.info("No bundle has measured results. Train models with `hardrank train`, or run an audit below.")
        return
    begin = [entry.name for entry in found.default() if entry.name in measured] or list(measured)[:1]
    names = st.multiselect("Models", list(measured), default=begin, max_selections=6, key="audit.cards")
    for message in found.problems:
        show_error(message)
    if names:
        shown = [measured[name] for name in names]
        _scores(shown, sample_cautions(shown))


def _past_audit(jobs: AuditJobs, one: PastAudit) -> None:
    if one.error:
        show_error(one.error)
    if one.report is None:
        if one.request is not None:
            st.info("This audit is not finished. Finished work is kept.")
            st.button(
                "Resume",
                icon=":material/resume:",
                key="audit.resume",
                on_click=_start,
                args=(jobs, one.request, one.folder),
            )
        return
    _scores(scores_of_report(one.report), one.report.cautions)
    with st.expander("Threat model"):
        for line in one.report.threat_model:
            st.markdown(f"- {escape_markdown(line)}")
    with st.container(horizontal=True, key="audit.downloads"):
        tables = [model.per_image for model in one.report.models]
        for name in (HTML, REPORT, *tables):
            file = one.folder / name
            if file.is_file():
                st.download_button(
                    escape_markdown(name),
                    file.read_bytes(),
                    file_name=name,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"file-{name}",
                )


def _scores(models: list[ModelScores], cautions: Sequence[str]) -> None:
    panel(score_tiles(models), caution_list(cautions), failed_checks(models), key="tiles")
    panel(score_charts(models), key="charts")
    if curves := curve_charts(models):
        st.header("Score against the attack budget", anchor=False)
        panel(*curves, key="curves")
    with st.expander("All figures, with 95 % intervals", expanded=True):
        panel(parts_table(models), key="parts")


# ---------------------------------------------------------------------- a new audit


def _form(jobs: AuditJobs, *, opened: bool) -> None:
    with errors_shown():
        selection = select_gallery()
        left, middle, right = st.columns(3, gap="medium")
        with left:
            attacks = st.multiselect(
                "Attacks",
                list(offered_attacks()),
                default=list(SCORECARD),
                key="audit.attacks",
                help="Nine attacks give the ten results of ERS; MARGIN gives the worst case of Recall@1.\n\n"
                + "\n".join(f"- **{escape_markdown(name)}**: {ATTACKS[name].title}" for name in offered_attacks()),
            )
            attacked = st.number_input(
                "images attacked",
                1,
                100_000,
                100,
                key="audit.attacked",
                help="a seeded sample; more images make the intervals narrower",
            )
            seed = st.number_input("seed", 0, 2**31 - 1, 0, key="audit.seed")
        declared = {option.name: option for option in budget_options()}
        with middle:
            norm: Norm = option_field(declared["norm"], key="audit.norm")
            main = [declared[name] for name in ("epsilon", "alpha", "steps")]
            # A small input, so that the budget of L2 is modest where a model takes larger images.
            robustness = {
                option.name: option_field(
                    option,
                    key=f"audit.{norm}.{option.name}",
                    default=comparable_budget(option.default, side=_SMALL_INPUT, before=Norm.LINF, after=norm)
                    if in_pixels(option)
                    else None,
                    norm=norm,
                )
                for option in main
            }
        with right:
            rest = [option for name, option in declared.items() if name not in {"norm", "epsilon", "alpha", "steps"}]
            robustness |= option_fields(rest, key="audit")
        curves = st.pills(
            "Budget curves",
            list(_CURVES),
            selection_mode="multi",
            key="audit.curves",
            help="The score at smaller and larger budgets. Each point takes as long as an audit of 50 images.",
        )
        request = None
        with errors_shown():
            options = AuditOptions(
                attacks=tuple(attacks),
                attacked=attacked,
                seed=seed,
                robustness=RobustnessOptions(**robustness, norm=norm),
                curves=tuple(_CURVES[name] for name in curves),
            )
            request = AuditRequest(
                models=selection.models, gallery=selection.gallery, options=options, loading=selection.loading
            )
            if opened and not jobs.running:
                _estimate(selection, options)
        start = st.button(
            "Run the audit",
            type="primary",
            icon=":material/play_arrow:",
            key="audit.run",
            disabled=request is None,
        )
        if start and request is not None:
            jobs.start(request)


def _estimate(selection: GallerySelection, options: AuditOptions) -> None:
    """Say how long the audit will take; measured in the background, so that the page can be used meanwhile."""
    entry = estimate_duration(selection, options)
    if entry.done:
        _show_estimate(entry)
    else:
        st.fragment(_watch_estimate, run_every=_REDRAW_EVERY_S)(selection, options)


def _watch_estimate(selection: GallerySelection, options: AuditOptions) -> None:
    entry = estimate_duration(selection, options)
    if entry.value is not None:
        st.rerun()
    if entry.error:
        _show_estimate(entry)
        return
    share, text = progress_bar(entry.progress, waiting="…")
    st.caption(f"Estimating the duration: {text}" if share or entry.progress else "Estimating the duration…")


def _show_estimate(entry: CacheEntry[AuditEstimate]) -> None:
    if entry.value is None:
        show_error(entry.error)
        return
    with st.container(key="audit.estimate"):
        for line in entry.value.lines():
            st.caption(escape_markdown(line))
        if entry.value.seconds > LONG_S:
            st.caption("Fewer images, steps or attacks shorten it. A stopped audit can be resumed.")


_CURVES: Final = {
    "ERS against ε": Curve(parameter=CurveParameter.EPSILON, values=tuple(value / 255 for value in _EPSILONS)),
    "ERS against steps": Curve(parameter=CurveParameter.STEPS, values=_STEPS),
}


def _start(jobs: AuditJobs, request: AuditRequest, folder: Path) -> None:
    with errors_shown():
        jobs.start(request, folder)


# ---------------------------------------------------------------------- the running audit


def _background(jobs: AuditJobs) -> None:
    job = jobs.job
    if job is None:
        return
    if not job.done:
        st.session_state[_WATCHED] = str(job.folder)
        st.fragment(_watch, run_every=_REDRAW_EVERY_S)(jobs)
    elif job.stopped:
        st.info("The audit was stopped. Finished work is kept: choose it under *Results* to resume it.")
    elif job.error:
        show_error(job.error)
    elif st.session_state.pop(_WATCHED, None) == str(job.folder):
        st.session_state[_FINISHED] = str(job.folder)
        st.rerun()


def _watch(jobs: AuditJobs) -> None:
    job = jobs.job
    if job is None or job.done:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", key="audit.standing"):
        st.progress(*progress_bar(job.progress, waiting="Starting…"))
        st.button("Stop", key="audit.stop", icon=":material/stop:", on_click=jobs.stop)
