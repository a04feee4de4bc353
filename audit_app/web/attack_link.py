"""An attack as the query parameters of the page's address, so that a link opens it again."""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import streamlit as st

from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.web.chosen_images import OpenedImage, open_image
from hardrank.audit_app.web.option_fields import field_range, in_pixels, set_pixels
from hardrank.audit_app.web.selection_fields import SelectionFields, catalog, set_selection
from hardrank.audit_app.web.session import GallerySelection
from hardrank.audit_app.web.settings import settings
from hardrank.trainer.attacks.options import Option, declared_options
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import ATTACKS, offered_attacks
from hardrank.trainer.attacks.runner import AttackOptions

LEVELS: Final = 255
_LARGEST: Final = 2**31 - 1
_WHOLE: Final[Mapping[str, tuple[int, int]]] = {
    "seed": (0, _LARGEST),
    "k": (1, 20),
    "quality": (1, 100),
    "percent": (10, 200),
}
"""Fields that no attack declares, with their ranges."""

Parameters = Mapping[str, Sequence[str]]
"""Values by name, as `urllib.parse.parse_qs` returns them."""


def link_of(selection: GallerySelection, victim: Victim, options: LiveOptions) -> dict[str, list[str]]:
    """Describe an attack as query parameters; empty for an uploaded image, which no link can contain."""
    if victim.id is None:
        return {}
    names = {str(entry.folder): entry.name for entry in catalog().entries}
    values: dict[str, Any] = {
        "attack": options.attack,
        "seed": options.seed,
        "k": options.k,
        "quality": options.transform.jpeg_quality,
        "percent": options.transform.resize_percent,
    }
    for option in declared_options(AttackOptions):
        values[option.name] = _text(option, getattr(options.engine, option.name), options.engine.norm)
    for option in ATTACKS[options.attack].options:
        if option.name in options.settings:
            values[option.name] = _text(option, options.settings[option.name], options.engine.norm)
    if options.method is not SearchMethod.AUTO:
        values["method"] = options.method.value
    return {
        "model": [names.get(model, model) for model in selection.models],
        "gallery": [" ".join(selection.gallery.paths)],
        "image": [victim.id],
        **({"target": list(options.targets)} if options.targets else {}),
        **{name: [str(value)] for name, value in values.items()},
    }


def open_link(parameters: Parameters) -> None:
    """Fill the fields of the live attack page from query parameters; what is missing keeps its default.

    A link comes from anyone, so it can only name models of the app's own folder.

    Raises:
        AuditError: A model, an attack, or the value of an option is not allowed.
    """
    app = settings()
    if models := parameters.get("model"):
        known = {entry.name: str(entry.folder) for entry in catalog().entries}
        if unknown := [name for name in models if name not in known]:
            raise AuditError(
                f"this link names the model {unknown[0]!r}, which is not in {app.zoo}; add it under Models"
            )
        gallery = _single(parameters, "gallery") or " ".join(app.gallery)
        set_selection(SelectionFields(models=tuple(known[name] for name in models), gallery=gallery))
    open_attack(parameters)


def open_attack(parameters: Parameters, victim: Victim | None = None) -> None:
    """Fill the fields of the attack and its image, without models and gallery; see `open_link`."""
    attack = _single(parameters, "attack") or "QA+"
    if attack not in offered_attacks():
        raise AuditError(f"this link names the attack {attack!r}; there are {', '.join(offered_attacks())}")
    norm = _norm(_single(parameters, "norm") or Norm.LINF.value)
    fields: dict[str, Any] = {"live.attack": attack, "live.norm": norm}
    pixels: list[tuple[str, float]] = []
    declared = [(option, f"live.{option.name}") for option in declared_options(AttackOptions)]
    declared += [(option, f"live.{attack}.{option.name}") for option in ATTACKS[attack].options]
    for option, key in declared:
        text = _single(parameters, option.name)
        if text is None or option.name == "norm":
            continue
        if in_pixels(option):
            pixels.append((option.name, _number(option.name, text, 0, _LARGEST)))
        else:
            fields[key] = _value(option, text)
    for name, (low, high) in _WHOLE.items():
        if (text := _single(parameters, name)) is not None:
            fields[f"live.{name}"] = int(_number(name, text, low, high))
    if (text := _single(parameters, "method")) is not None and text in set(SearchMethod):
        fields["live.method"] = SearchMethod(text)
    st.session_state.update(fields)
    for name, value in pixels:
        distance = value / LEVELS if norm is Norm.LINF else value
        set_pixels(name, distance, key=f"live.{name}.{norm}", norm=norm)
    image = _single(parameters, "image")
    victim = victim or (None if image is None else Victim(id=image))
    if victim is not None:
        targets = tuple(parameters.get("target", ()))
        open_image(OpenedImage(victim=victim, targets={attack: targets} if targets else {}))


def _text(option: Option, value: Any, norm: Norm) -> str:
    if in_pixels(option):
        return f"{LEVELS * value if norm is Norm.LINF else value:.6g}"
    return str(value.value if isinstance(value, Enum) else int(value) if isinstance(value, bool) else value)


def _single(parameters: Parameters, name: str) -> str | None:
    values = parameters.get(name)
    return values[-1] if values else None


def _norm(text: str) -> Norm:
    try:
        return Norm(text)
    except ValueError:
        raise AuditError(f"this link names the norm {text!r}; there are {_join(Norm)}") from None


def _value(option: Option, text: str) -> Any:
    if option.type is bool:
        return text in {"1", "true", "True"}
    if issubclass(option.type, Enum):
        try:
            return option.type(text)
        except ValueError:
            raise AuditError(f"{option.name} is {text!r} in this link; there are {_join(option.type)}") from None
    low, high = field_range(option)
    number = _number(option.name, text, low, high)
    return int(number) if option.type is int else number


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise AuditError(f"{name} is {text!r} in this link; it must be {low:g} to {high:g}")
    return number


def _join(values: Iterable[Enum]) -> str:
    return ", ".join(str(one.value) for one in values)
