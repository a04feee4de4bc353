"""The options of a live attack: which attack, how strong, and all others."""

from dataclasses import dataclass
from typing import Any, Final

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hardrank.audit_app.blackbox import SEARCHES
from hardrank.audit_app.blackbox.choice import SearchMethod, search_name
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.targets import with_count
from hardrank.audit_app.web.chosen_images import FIRST_ATTACK
from hardrank.audit_app.web.option_fields import comparable_budget, option_field, option_fields, pixels_in, set_pixels
from hardrank.audit_app.web.resources import LoadedGallery
from hardrank.trainer.attacks.options import declared_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, offered_attacks
from hardrank.trainer.attacks.runner import AttackOptions

FIRST_EPSILON: Final = 4 / 255
"""Half the budget of the scorecard: barely visible, and enough against most models."""
_FIRST_ALPHA: Final = 1 / 255
"""Small steps, so that the perturbation visibly grows."""
_PACE: Final = 12
_FIRST: Final = {"epsilon": FIRST_EPSILON, "alpha": _FIRST_ALPHA}


@dataclass(frozen=True, kw_only=True)
class AttackForm:
    """The values of the fields."""

    attack: str
    settings: dict[str, Any]
    engine: dict[str, Any]
    method: SearchMethod
    search: dict[str, Any]
    transform: TransformOptions
    seed: int
    k: int
    pace: float | None

    def options(self, targets: tuple[str, ...]) -> LiveOptions:
        """Build the options of an attack on `targets` (ids; drawn if empty). Raises `AttackError`."""
        return LiveOptions(
            attack=self.attack,
            settings=with_count(self.attack, self.settings, len(targets)) if targets else self.settings,
            engine=AttackOptions(**self.engine),
            targets=targets or None,
            seed=self.seed,
            k=self.k,
            transform=self.transform,
            method=self.method,
            search=self.search,
            pace=self.pace,
        )


def attack_form(
    main: DeltaGenerator, more: DeltaGenerator, loaded: LoadedGallery, *, methods: tuple[SearchMethod, ...]
) -> AttackForm:
    """Draw the most important options into `main`, all others into `more`."""
    which, strength = main.container(), main.container()
    names = list(offered_attacks())
    attack = which.selectbox(
        "Attack",
        names,
        index=names.index(FIRST_ATTACK),
        format_func=lambda name: f"{name} · {ATTACKS[name].title}",
        key="live.attack",
    )
    engine = {option.name: option for option in declared_options(AttackOptions)}
    with more:
        without_gradients = not all(served.subject.white_box for served in loaded)
        left, middle, right = st.container(), st.container(), st.container()
        with left:
            st.markdown("**Attack**")
            settings = option_fields(ATTACKS[attack].options, key=f"live.{attack}")
            choice = ATTACKS[attack].targets
            if choice is not None and choice.count_option:
                st.caption(f"If you choose targets by hand, `{choice.count_option}` is their number.")
            seed = st.number_input(
                "seed", 0, 2**31 - 1, 0, help="seed of drawn targets and random starts", key="live.seed"
            )
            method = _method(methods) if without_gradients else SearchMethod.AUTO
            searching = without_gradients and method is not SearchMethod.TRANSFER
        with middle:
            st.markdown("**Budget**")
            side = min(served.subject.size for served in loaded)
            norm = option_field(engine["norm"], key="live.norm", on_change=lambda: _convert_budget(side))
            first = {
                name: comparable_budget(value, side=side, before=Norm.LINF, after=norm)
                for name, value in _FIRST.items()
            }
            rest = {
                name: option_field(option, key=_key(name, norm), default=first.get(name), norm=norm)
                for name, option in engine.items()
                if name not in {"norm", "epsilon"}
            }
            search = _search(method, norm) if searching else {}
        with right:
            st.markdown("**Display**")
            k = st.slider("first answers (k)", 1, 20, 10, key="live.k", help="number of answers that are compared")
            as_jpeg = "quality at which the attacked image is tested as JPEG"
            quality = st.slider("JPEG quality", 1, 100, 90, key="live.quality", help=as_jpeg)
            resized = "size at which the attacked image is tested"
            percent = st.slider("resize to, %", 10, 200, 50, step=5, key="live.percent", help=resized)
            pace = st.slider(
                "steps per second, at most",
                2,
                60,
                _PACE,
                key="live.pace",
                help="slower is easier to follow and changes no result; 60: no limit",
            )
    with strength:
        epsilon = option_field(engine["epsilon"], key=_key("epsilon", norm), default=first["epsilon"], norm=norm)
    return AttackForm(
        attack=attack,
        settings=settings,
        engine={**rest, "norm": norm, "epsilon": epsilon},
        method=method,
        search=search,
        transform=TransformOptions(jpeg_quality=quality, resize_percent=percent),
        seed=seed,
        k=k,
        pace=None if pace >= 60 or searching else float(pace),
    )


def _key(name: str, norm: Norm) -> str:
    """Key of a field; only pixel distances depend on the norm, so the others keep their values when it changes."""
    return f"live.{name}.{norm}" if name in _FIRST else f"live.{name}"


def _convert_budget(side: int) -> None:
    """Convert ε and α to the norm that was just chosen."""
    after = st.session_state["live.norm"]
    before = Norm.L2 if after is Norm.LINF else Norm.LINF
    for name in _FIRST:
        value = pixels_in(key=_key(name, before), norm=before)
        if value is not None:
            value = comparable_budget(value, side=side, before=before, after=after)
            set_pixels(name, value, key=_key(name, after), norm=after)


def _method(methods: tuple[SearchMethod, ...]) -> SearchMethod:
    return st.selectbox(
        "black-box search",
        methods,
        format_func=lambda one: _METHOD_NAMES.get(one, one.value),
        key="live.method",
        help="how to attack a model without gradients",
    )


_METHOD_NAMES: Final = {
    SearchMethod.AUTO: "auto",
    SearchMethod.TRANSFER: "transfer · made against another model",
    **{SearchMethod(name): f"{name} · {kind.title}" for name, kind in SEARCHES.items()},
}


def _search(method: SearchMethod, norm: Norm) -> dict[str, Any]:
    name = search_name(method, norm)
    return option_fields(SEARCHES[name].options, key=f"live.search.{name}")
