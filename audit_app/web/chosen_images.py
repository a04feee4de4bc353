"""The image under attack and the targets that a visitor chose, kept while other pages are shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import streamlit as st

from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.live.defaults import choose_query, choose_target
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web.messages import show_error
from hardrank.audit_app.web.option_fields import set_pixels
from hardrank.audit_app.web.resources import LoadedGallery
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS

_KEY: Final = "chosen_images"
_OPEN: Final = "opened_image"
FIRST_ATTACK: Final = "QA+"
MOST_TARGETS: Final = 8


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """The image under attack, and the targets of each attack. The other options are kept by their fields."""

    gallery: str
    """Digest of the gallery that the ids belong to."""
    victim: Victim
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attack → ids chosen by hand; targets of other attacks are drawn from the seed."""


@dataclass(frozen=True, kw_only=True)
class OpenedImage:
    """An image that a link or another page opens in the live attack."""

    victim: Victim
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def missing(self, gallery: ImageGallery) -> list[str]:
        """Return the ids that a gallery does not have."""
        own = () if self.victim.id is None else (self.victim.id,)
        known = set(gallery.ids)
        return [id for id in (*own, *(id for ids in self.targets.values() for id in ids)) if id not in known]


def chosen_images(loaded: LoadedGallery, *, k: int) -> ChosenImages:
    """Return the visitor's choice; make a suitable first choice for a gallery that is new to the visitor."""
    gallery = loaded[0].gallery
    chosen: ChosenImages | None = st.session_state.get(_KEY)
    opened: OpenedImage | None = st.session_state.pop(_OPEN, None)
    missing = [] if opened is None else opened.missing(gallery)
    if missing:
        show_error(f"the gallery has no image {missing[0]!r}")
    if opened is not None and not missing:
        chosen = ChosenImages(gallery=gallery.digest(), victim=opened.victim, targets=opened.targets)
    elif chosen is None or chosen.gallery != gallery.digest():
        query = choose_query(loaded, k=k)
        target = gallery.ids[choose_target(loaded, query)]
        chosen = ChosenImages(
            gallery=gallery.digest(),
            victim=Victim(id=gallery.ids[query]),
            targets={FIRST_ATTACK: (target,)},
        )
    st.session_state[_KEY] = chosen
    return chosen


def open_image(opened: OpenedImage) -> None:
    """Make the live attack page start with an image and its targets."""
    st.session_state[_OPEN] = opened


def open_in_live_attack(id: str, *, attack: str | None, norm: Norm, epsilon: float, alpha: float) -> None:
    """Make the live attack page start with an image of its gallery, an attack, a budget and a step size."""
    open_image(OpenedImage(victim=Victim(id=id)))
    if attack is not None:
        st.session_state["live.attack"] = attack
    st.session_state["live.norm"] = norm
    set_pixels("epsilon", epsilon, key=f"live.epsilon.{norm}", norm=norm)
    set_pixels("alpha", alpha, key=f"live.alpha.{norm}", norm=norm)


def latest_choice(chosen: ChosenImages) -> ChosenImages:
    """Return the choice as it is now, or `chosen` if there is none."""
    now: ChosenImages = st.session_state.get(_KEY, chosen)
    return now


def choose_victim(chosen: ChosenImages, victim: Victim) -> None:
    """Choose another image to attack, and remove it from the targets."""
    targets = {name: tuple(id for id in ids if id != victim.id) for name, ids in chosen.targets.items()}
    _keep(replace(chosen, victim=victim), targets)


def toggle_target(chosen: ChosenImages, attack: str, id: str) -> None:
    """Add or remove a target; an attack with a single target replaces it."""
    ids = chosen.targets.get(attack, ())
    most = most_targets(attack)
    if id in ids:
        ids = tuple(one for one in ids if one != id)
    elif most == 1:
        ids = (id,)
    else:
        ids = (*ids, id)[:most]
    _keep(chosen, {**chosen.targets, attack: ids})


def most_targets(attack: str) -> int:
    """Return how many targets may be chosen for an attack."""
    choice = ATTACKS[attack].targets
    return MOST_TARGETS if choice is not None and choice.count_option else 1


def draw_targets(chosen: ChosenImages, attack: str) -> None:
    """Let the seed draw the targets of an attack."""
    _keep(chosen, {**chosen.targets, attack: ()})


def _keep(chosen: ChosenImages, targets: Mapping[str, tuple[str, ...]]) -> None:
    """Remember a choice with these targets."""
    st.session_state[_KEY] = replace(chosen, targets={name: ids for name, ids in targets.items() if ids})
