"""Command-line arguments from options that are declared as data (`hardrank.trainer.attacks.options`)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from enum import Enum
from typing import Annotated, Any, Final

import tyro

from hardrank.audit_app.errors import AuditError
from hardrank.trainer.attacks.options import Option
from hardrank.trainer.config import pixels

_TRUE: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def arguments_of(owner: type, options: Sequence[Option], *, doc: str) -> type:
    """Make a dataclass with a field for each option, for tyro: with its type, help and default.

    Args:
        owner: The dataclass that declares the options; the result is named after it.
        options: Its options.
        doc: Docstring of the result, the heading of the options in `--help`.
    """
    fields: list[tuple[str, Any, Any]] = [
        (option.name, _annotated(option), field(default=option.default)) for option in options
    ]
    made = make_dataclass(f"{owner.__name__}Arguments", fields, frozen=True, kw_only=True)
    made.__doc__ = doc
    return made


def read_pairs(texts: Sequence[str], options: Sequence[Option], *, of: str) -> dict[str, Any]:
    """Read `NAME=VALUE` as declared options.

    Args:
        texts: The pairs.
        options: The options that exist.
        of: Whose options they are, for messages.

    Raises:
        AuditError: An unknown name, or a value that cannot be read.
    """
    known = {option.name: option for option in options}
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise AuditError(f"{text!r} is not an option of {of}; write NAME=VALUE with {', '.join(known) or 'none'}")
        try:
            found[name] = _reader(known[name])(value)
        except ValueError as error:
            raise AuditError(f"{of}: invalid value {value!r} of {name}: {error}") from error
    return found


def read_duration(text: str) -> float:
    """Read `90s`, `10m`, `2h` or a number of seconds; raises `AuditError`."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise AuditError(f"invalid duration {text!r}; write a number above 0 with a unit, such as 90s, 10m or 2h")
    return seconds


def _annotated(option: Option) -> Any:
    in_pixels = option.type is float and "pixels" in option.unit
    unit = ", in units of pixels in [0,1]" if in_pixels else ""
    text = tyro.conf.arg(help=f"{_capitalized(option.help)}{unit}.")
    if option.type is not float:
        return Annotated[option.type, text]
    number = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N/255" if in_pixels else "X",
        instance_from_str=lambda texts: float(pixels(texts[0])),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [f"{255 * value:g}/255" if in_pixels else f"{value:g}"],
    )
    return Annotated[float, number, text]


def _capitalized(text: str) -> str:
    """Return `text` with a capital first letter, unless it is a Greek symbol."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def _reader(option: Option) -> Callable[[str], Any]:
    """Return a function that reads the option's value from text and raises `ValueError`."""
    if issubclass(option.type, Enum):
        return option.type
    if option.type is bool:
        return _parse_bool
    return (lambda text: float(pixels(text))) if option.type is float else int


def _parse_bool(text: str) -> bool:
    if text.lower() not in _TRUE:
        raise ValueError("give true or false")
    return _TRUE[text.lower()]
