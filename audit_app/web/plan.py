"""What a visitor chose to attack, kept while pages change."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import streamlit as st

from hardrank.audit_app.live.aims import AIMS
from hardrank.audit_app.live.defaults import choose_query, choose_target
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web.option_fields import set_pixels
from hardrank.audit_app.web.resources import Stage
from hardrank.trainer.attacks.pgd import Norm

_KEY: Final = "plan"
_OPEN: Final = "open"
FIRST_ATTACK: Final = "QA+"
MOST_TARGETS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The image, and where each attack aims. Widgets hold the rest."""

    gallery: str
    """Digest of the gallery that the ids are of."""
    victim: Victim
    targets: MutableMapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids chosen by hand, by attack; none: drawn from the seed."""


def current_plan(stage: Stage, *, k: int) -> Plan:
    """Give the visitor's plan; begins a sensible one on a gallery that is new to them."""
    gallery = stage[0].gallery
    plan: Plan | None = st.session_state.get(_KEY)
    asked = st.session_state.pop(_OPEN, None)
    if asked is not None and asked in gallery.ids:
        plan = Plan(gallery=gallery.digest(), victim=Victim(id=asked))
    elif plan is None or plan.gallery != gallery.digest():
        query = choose_query(stage, k=k)
        target = gallery.ids[choose_target(stage, query)]
        plan = Plan(gallery=gallery.digest(), victim=Victim(id=gallery.ids[query]))
        plan = replace(plan, targets={FIRST_ATTACK: (target,)})
    st.session_state[_KEY] = plan
    return plan


def ask_to_open(id: str, *, attack: str | None, norm: Norm, epsilon: float) -> None:
    """Let the page of the live attack begin with an item of its gallery, an attack and a budget."""
    st.session_state[_OPEN] = id
    if attack is not None:
        st.session_state["live.attack"] = attack
    st.session_state["live.norm"] = norm
    set_pixels("epsilon", epsilon, key=f"live.epsilon.{norm}", norm=norm)


def chosen_plan(plan: Plan) -> Plan:
    """Give the plan as it is now, `plan` where there is none."""
    now: Plan = st.session_state.get(_KEY, plan)
    return now


def keep(plan: Plan) -> None:
    """Remember a changed plan."""
    st.session_state[_KEY] = plan


def attack_image(plan: Plan, victim: Victim) -> None:
    """Attack another image; an image is no target of itself."""
    targets = {name: tuple(id for id in ids if id != victim.id) for name, ids in plan.targets.items()}
    keep(replace(plan, victim=victim, targets={name: ids for name, ids in targets.items() if ids}))


def toggle_target(plan: Plan, attack: str, id: str) -> None:
    """Aim at an item too, or no longer; an attack on one target takes the other in its place."""
    chosen = plan.targets.get(attack, ())
    most = MOST_TARGETS if AIMS[attack].count else 1
    chosen = tuple(one for one in chosen if one != id) if id in chosen else (*chosen, id)[-most:]
    targets: dict[str, Any] = {**plan.targets, attack: chosen}
    keep(replace(plan, targets={name: ids for name, ids in targets.items() if ids}))


def draw_targets(plan: Plan, attack: str) -> None:
    """Leave the targets to the seed."""
    keep(replace(plan, targets={name: ids for name, ids in plan.targets.items() if name != attack}))
