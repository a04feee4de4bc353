"""Form fields for the options that attacks and engines declare."""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import streamlit as st

from hardrank.trainer.attacks.options import Option
from hardrank.trainer.attacks.pgd import Norm

_LEVELS: Final = 255

RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "epsilon": (0, 32),
    "alpha": (0, 16),
    "sigma": (0.5, 16),
    "steps": (1, 500),
    "restarts": (1, 10),
    "eot": (1, 32),
    "m": (1, 8),
    "w": (1, 8),
    "k": (2, 10),
    "kept": (1, 20),
    "first": (1, 50),
    "weight": (0, 1000),
    "share": (0, 1),
    "queries": (10, 20_000),
    "bootstrap": (100, 10_000),
    "seed_check": (0, 500),
    "sanity_images": (0, 32),
}
"""Ranges of the fields by option name; pixels in 1/255. Declared limits apply as well."""

_LARGEST_L2: Final = 20.0
"""For pixels in [0,1]; clearly visible."""


def comparable_budget(value: float, *, side: int, before: Norm, after: Norm) -> float:
    """Convert a pixel distance between norms, for images of `side` pixels.

    A change of c in every one of the 3·side² values has the L∞ norm c and the L2 norm c·√(3·side²), so these budgets
    allow the same change of the whole image.
    """
    if before is after:
        return value
    factor = math.sqrt(3.0) * side
    return value * factor if after is Norm.L2 else value / factor


def option_field(
    option: Option,
    *,
    key: str,
    default: Any = None,
    norm: Norm = Norm.LINF,
    on_change: Callable[[], None] | None = None,
) -> Any:
    """Draw the field of an option and return its value; pixel distances are entered in 1/255.

    `on_change` is called when the visitor changes a choice of one of several values.
    """
    start = option.default if default is None else default
    label, tooltip = _label(option), _help(option)
    if option.type is bool:
        return st.toggle(label, value=bool(start), help=tooltip, key=key)
    if issubclass(option.type, Enum):
        kind: type[Enum] = option.type
        return st.selectbox(
            label,
            list(kind),
            index=list(kind).index(start),
            format_func=lambda one: str(one.value),
            help=tooltip,
            key=key,
            on_change=on_change,
        )
    if in_pixels(option):
        return _pixels(option, label, tooltip, start, key, norm)
    low, high = field_range(option)
    if option.type is int:
        return int(st.number_input(label, int(low), int(high), int(start), step=1, help=tooltip, key=key))
    return float(st.number_input(label, low, high, float(start), step=_step(start), help=tooltip, key=key, format="%g"))


def option_fields(options: Sequence[Option], *, key: str) -> dict[str, Any]:
    """Draw the fields of several options and return their values by name."""
    return {option.name: option_field(option, key=f"{key}.{option.name}") for option in options}


def in_pixels(option: Option) -> bool:
    """Return whether an option is a distance of pixels in [0,1]."""
    return option.type is float and "pixels" in option.unit


def _pixels(option: Option, label: str, tooltip: str, start: float, key: str, norm: Norm) -> float:
    if norm is Norm.L2:
        value = st.number_input(
            f"{label} (L2)",
            0.0,
            _LARGEST_L2,
            min(float(start), _LARGEST_L2),
            step=0.1,
            help=tooltip,
            key=f"{key}.l2",
            format="%g",
        )
        return float(value)
    low, high = RANGES[option.name]
    value = st.slider(
        f"{label} in 1/255",
        low * 1.0,
        high * 1.0,
        round(start * _LEVELS, 1),
        step=0.5,
        help=tooltip,
        key=key,
        format="%g",
    )
    return value / _LEVELS


def set_pixels(name: str, value: float, *, key: str, norm: Norm) -> None:
    """Set the field of a pixel distance to `value`, clipped to the range of the field."""
    if norm is Norm.L2:
        st.session_state[f"{key}.l2"] = min(value, _LARGEST_L2)
        return
    low, high = RANGES[name]
    st.session_state[key] = min(max(round(value * _LEVELS, 1), low * 1.0), high * 1.0)


def pixels_in(*, key: str, norm: Norm) -> float | None:
    """Return the pixel distance in a field, for pixels in [0,1]; None if the field was not drawn."""
    value = st.session_state.get(f"{key}.l2" if norm is Norm.L2 else key)
    if value is None:
        return None
    return float(value) if norm is Norm.L2 else float(value) / _LEVELS


def field_range(option: Option) -> tuple[float, float]:
    """Return the least and the largest value of an option's field."""
    low, high = RANGES.get(option.name, (-1e6, 1e6))
    if option.minimum is not None:
        low = max(low, option.minimum)
    if option.maximum is not None:
        high = min(high, option.maximum)
    return float(low), float(high)


def _step(start: float) -> float:
    return 0.01 if abs(start) < 1 else 1.0


def _label(option: Option) -> str:
    named = {"epsilon": "ε", "alpha": "α"}.get(option.name, option.name.replace("_", " "))
    unit = "" if not option.unit or in_pixels(option) or option.unit == option.name else f" ({option.unit})"
    return f"{named}{unit}"


def _help(option: Option) -> str:
    limits = [
        f"at least {option.minimum:g}" if option.minimum is not None else "",
        f"at most {option.maximum:g}" if option.maximum is not None else "",
    ]
    limit = ", ".join(one for one in limits if one)
    return f"{option.help}{f' ({limit})' if limit and not in_pixels(option) else ''}"
