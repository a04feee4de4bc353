"""Options declared as data (`hardrank.trainer.attacks.options`) as arguments of a command."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any

from hardrank.audit_app.errors import AuditError
from hardrank.trainer.attacks.options import Option
from hardrank.trainer.config import pixels


def add_declared(parser: argparse._ArgumentGroup, options: Sequence[Option]) -> None:
    """Add `--name` for each option, with its type, range, unit and help."""
    for option in options:
        flag = f"--{option.name.replace('_', '-')}"
        if option.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=option.default, help=option.help)
            continue
        parser.add_argument(
            flag,
            type=reader(option),
            default=option.default,
            metavar="|".join(option.choices) or _METAVARS.get(option.type, "X"),
            help=f"{option.help}{_unit(option)} (default {_default(option)})".replace("%", "%%"),
        )


def take(arguments: argparse.Namespace, owner: type, **others: Any) -> Any:
    """Build the dataclass `owner` of the arguments that bear its fields' names."""
    known = {field.name: getattr(arguments, field.name) for field in fields(owner) if hasattr(arguments, field.name)}
    return owner(**{**known, **others})


def read_pairs(texts: Sequence[str], options: Sequence[Option], *, of: str) -> dict[str, Any]:
    """Read `NAME=VALUE` as declared options; raises `AuditError` for unknown names and values that cannot be read."""
    known: Mapping[str, Option] = {option.name: option for option in options}
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise AuditError(
                f"{text!r} is no option of {of}; write NAME=VALUE with one of {', '.join(known) or 'none'}"
            )
        try:
            found[name] = reader(known[name])(value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise AuditError(f"{of}: {name} cannot be {value!r}: {error}") from error
    return found


def reader(option: Option) -> Callable[[str], Any]:
    """Give a function that reads the option's value from text."""
    if issubclass(option.type, Enum):
        kind: type[Enum] = option.type

        def choose(text: str) -> Enum:
            try:
                return kind(text)
            except ValueError:
                raise argparse.ArgumentTypeError(f"give one of {', '.join(option.choices)}, not {text!r}") from None

        return choose
    if option.type is bool:
        return _truth
    return fraction if option.type is float else int


def fraction(text: str) -> float:
    """Read a number, or a fraction as 8/255."""
    try:
        return float(pixels(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _truth(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"give true or false, not {text!r}")
    return known[text.lower()]


_METAVARS: Mapping[type, str] = {int: "N", float: "X"}


def _unit(option: Option) -> str:
    return f" [{option.unit}]" if option.unit else ""


def _default(option: Option) -> str:
    in_pixels = isinstance(option.default, float) and "pixels" in option.unit
    return f"{255 * option.default:g}/255" if in_pixels else str(option.default)
