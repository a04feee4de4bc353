"""A live attack on a page: its setup, the running attack, its result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.drawing.formatting import format_plural
from hardrank.audit_app.drawing.live_panel import live_panel
from hardrank.audit_app.drawing.setup_panel import CaptionedImage, TargetGroup, answers_panel, setup_panel
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.live.status import AttackPhase, AttackStatus
from hardrank.audit_app.live.targets import drawn_targets, watched
from hardrank.audit_app.ranking.movement import rank_items, top_rows
from hardrank.audit_app.web.attack_form import AttackForm, attack_form
from hardrank.audit_app.web.attack_link import link_of
from hardrank.audit_app.web.chosen_images import ChosenImages, chosen_images
from hardrank.audit_app.web.dialogs import (
    IMAGE_DIALOG,
    TARGETS_DIALOG,
    choose_image,
    choose_targets,
    dialog_opened,
    open_dialog,
)
from hardrank.audit_app.web.messages import errors_shown, show_error
from hardrank.audit_app.web.panel import panel
from hardrank.audit_app.web.pictures import class_or_id, image_name, thumbnail, upload_uri
from hardrank.audit_app.web.resources import LoadedGallery, attack_queue, session
from hardrank.audit_app.web.result_view import ranked_items, show_result
from hardrank.audit_app.web.session import GallerySelection
from hardrank.audit_app.web.settings import settings
from hardrank.trainer.attacks.registry import ATTACKS, make_attack

_REDRAW_EVERY_S: Final = 0.15
_ANSWERS: Final = 10


@dataclass(frozen=True)
class PageAreas:
    """Areas of a page: a panel with the settings, and the result beside it (on a phone, below it)."""

    settings: DeltaGenerator
    """The whole panel; its end is free for more fields."""
    setup: DeltaGenerator
    buttons: DeltaGenerator
    main_options: DeltaGenerator
    all_options: DeltaGenerator
    result: DeltaGenerator


def attack_areas() -> PageAreas:
    """Lay out a page."""
    with st.container(key="attack-page"):
        left, right = st.columns([3, 8], gap="medium")
    with left:
        setup, buttons, main_options = st.container(), st.container(), st.container()
        all_options = st.expander("All options", icon=":material/tune:")
    return PageAreas(left, setup, buttons, main_options, all_options, right.container())


LoadTransfers = Callable[[], Mapping[str, Transfer]]
"""Returns the methods of a transfer attack by model; waits until they are loaded."""


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What a visitor has selected, chosen and entered."""

    loaded: LoadedGallery
    selection: GallerySelection
    form: AttackForm
    chosen: ChosenImages
    load_transfers: LoadTransfers | None


def attack_view(
    areas: PageAreas,
    selection: GallerySelection,
    loaded: LoadedGallery,
    *,
    methods: tuple[SearchMethod, ...],
    load_transfers: LoadTransfers | None = None,
) -> None:
    """Draw everything about a live attack: its setup, the options, the running attack or its result."""
    form = attack_form(areas.main_options, areas.all_options, loaded, methods=methods)
    chosen = chosen_images(loaded, k=form.k)
    page = _Page(loaded=loaded, selection=selection, form=form, chosen=chosen, load_transfers=load_transfers)
    with areas.setup:
        _setup(page)
    with areas.buttons:
        _buttons(page)
    with areas.result:
        _result(page)


# ---------------------------------------------------------------------- before


def _setup(page: _Page) -> None:
    loaded, form = page.loaded, page.form
    ids = page.chosen.targets.get(form.attack, ())
    aim = "the one beside it" if len(ids) == 1 else "those beside it" if ids else "one drawn from the seed"
    goal = ATTACKS[form.attack].story.format(target=aim)
    norm, epsilon = form.engine["norm"], form.engine["epsilon"]
    limit = (
        f"No pixel value changes by more than {255 * epsilon:g} of 255."
        if norm == "linf"
        else f"The change has an L2 norm of at most {epsilon:g}, with pixels in 0 … 1."
    )
    targets = [_target_group(loaded[0], form, [loaded[0].gallery.row(id) for id in ids], "")] if ids else []
    drawn = targets or _drawn_groups(page)
    panel(setup_panel(_victim_image(page), drawn, goal=goal, limit=limit), key="setup")


def _drawn_groups(page: _Page) -> list[TargetGroup]:
    """Return the targets that the attack will draw; once for all models that have the same."""
    loaded, form = page.loaded, page.form
    attack = make_attack(form.attack, **form.settings)
    drawn = drawn_targets(loaded, page.chosen.victim, attack, seed=form.seed)
    by_rows: dict[tuple[int, ...], list[ServedGallery]] = {}
    for served in loaded:
        if served.name in drawn:
            by_rows.setdefault(drawn[served.name], []).append(served)
    groups = []
    for rows, models in by_rows.items():
        of = "" if len(by_rows) == 1 else f" for {', '.join(served.name for served in models)}"
        kind = ATTACKS[form.attack]
        # The targets of an attack whose targets nobody chooses follow from the ranking, not from the seed.
        title = "Wanted order" if kind.ordered else "Aims at" if kind.targets is None else "Drawn from the seed"
        groups.append(_target_group(models[0], form, rows, f"{title}{of}"))
    return groups


def _target_group(served: ServedGallery, form: AttackForm, rows: Sequence[int], title: str) -> TargetGroup:
    images = [
        CaptionedImage(thumbnail(served, row), _target_name(form.attack, i, len(rows)), class_or_id(served, row))
        for i, row in enumerate(rows)
    ]
    return TargetGroup(title, images)


def _target_name(attack: str, place: int, count: int) -> str:
    if ATTACKS[attack].ordered:
        return f"rank {place + 1}"
    choice = ATTACKS[attack].targets
    called = "item" if choice is None else choice.noun
    return called if count == 1 else f"{called} {place + 1}"


def _victim_image(page: _Page) -> CaptionedImage:
    """Draw the image under attack."""
    victim, served = page.chosen.victim, page.loaded[0]
    if victim.id is not None:
        row = served.gallery.row(victim.id)
        return CaptionedImage(thumbnail(served, row), "image", class_or_id(served, row))
    assert victim.data is not None
    return CaptionedImage(upload_uri(served, victim.data), "image", "uploaded")


def _buttons(page: _Page) -> None:
    live = session().live
    busy = live is not None and not live.status().phase.over
    with st.container(horizontal=True, key="buttons"):
        if st.button("Attack", type="primary", icon=":material/bolt:", key="attack", disabled=busy):
            with errors_shown():
                _start(page)
                st.rerun()
        st.button(
            "Change image",
            icon=":material/image_search:",
            key="choose-image",
            on_click=open_dialog,
            args=(IMAGE_DIALOG,),
        )
        choice = ATTACKS[page.form.attack].targets
        if choice is not None:
            st.button(
                f"Change {choice.noun}",
                icon=":material/my_location:",
                key="choose-targets",
                on_click=open_dialog,
                args=(TARGETS_DIALOG,),
            )
    if dialog_opened() == IMAGE_DIALOG:
        choose_image(page.loaded, page.chosen)
    elif dialog_opened() == TARGETS_DIALOG and choice is not None:
        choose_targets(page.loaded, page.chosen, page.form.attack)


def _start(page: _Page) -> None:
    victim, options = page.chosen.victim, page.form.options(page.chosen.targets.get(page.form.attack, ()))
    transfers: Mapping[str, Transfer] = {}
    if page.load_transfers is not None and page.form.method is SearchMethod.TRANSFER:
        transfers = page.load_transfers()
    live = LiveAttack(page.loaded, victim, options, transfers=transfers, queue=attack_queue(settings().attacks))
    session().start(live, selection=page.selection)
    if page.load_transfers is None:  # the page of the visitor's own model cannot be opened by a link
        st.query_params.from_dict(link_of(page.selection, victim, options))


# ---------------------------------------------------------------------- while it runs, and after


def _result(page: _Page) -> None:
    live = session().live
    if live is None or live.served != page.loaded:
        st.header("Answers before the attack", anchor=False)
        panel(answers_panel(_answers(page)), key="answers")
        return
    status = live.status()
    if not status.phase.over:
        st.fragment(_watch, run_every=_REDRAW_EVERY_S)()
    elif status.result is None:
        if status.phase is AttackPhase.STOPPED:
            st.info("The attack was stopped before it began.")
        else:
            show_error(status.message)
    else:
        show_result(live, status, page.selection)


def _watch() -> None:
    """Draw the running attack; once it is over, redraw the page with its result."""
    # Fragments outlive the session: they must not hold an attack that was dropped.
    live = session().live
    if live is None or (status := live.status()).phase.over:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", key="standing"):
        st.button("Stop", key="stop", icon=":material/stop:", on_click=live.stop, disabled=status.stopped)
        st.caption(_progress(status))
    drawn = live_panel(status, live.options.engine, ranked=ranked_items(live), watched=watched(live.attack))
    panel(drawn, key="running", scroll_to=bool(status.frames))


def _progress(status: AttackStatus) -> str:
    if status.phase is AttackPhase.WAITING:
        attacks = format_plural(status.ahead, "other attack", "other attacks")
        return f"Waiting for {attacks}" if status.ahead else "Starting…"
    if status.phase is AttackPhase.JUDGING:
        return "The served models rank the attacked images…"
    return f"Attacking for {status.seconds:.1f} s"


def _answers(page: _Page) -> list[tuple[str, list[CaptionedImage]]]:
    """Return each model's answers to the original image."""
    victim, found = page.chosen.victim, []
    for served in page.loaded:
        own: list[int] = []
        if victim.id is not None:
            own = [served.gallery.row(victim.id)]
            point = served.matrix[own[0]]
        else:
            assert victim.data is not None
            point = served.embed_file(victim.data)
        rows = top_rows(rank_items(np.asarray(served.matrix @ point), left_out=own), _ANSWERS).tolist()
        images = [
            CaptionedImage(thumbnail(served, row), str(i), image_name(served, row)) for i, row in enumerate(rows, 1)
        ]
        found.append((served.name, images))
    return found
