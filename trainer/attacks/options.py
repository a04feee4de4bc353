"""Options declared as data (name, type, range, unit, help), from which command lines and pages are made."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from functools import cache
from typing import Any, get_type_hints

import numpy as np

from hardrank.models.errors import HardrankError


class AttackError(HardrankError):
    """Options or inputs with which an attack cannot run."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a command line or a page needs to know about an option."""

    name: str
    type: type
    """`int`, `float`, `bool` or an enum, whose members are the choices."""
    default: Any
    minimum: float | None
    maximum: float | None
    unit: str
    help: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of an enum; empty for other types."""
        return _choices(self.type) if issubclass(self.type, Enum) else ()


def option(
    default: Any, *, help: str, unit: str = "", minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare a field of a frozen options dataclass, with its inclusive range."""
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


@cache
def declared_options(owner: type) -> tuple[Option, ...]:
    """List the options that the dataclass `owner` declares, in order."""
    types = get_type_hints(owner)
    return tuple(
        Option(name=field.name, type=types[field.name], default=field.default, **field.metadata)
        for field in dataclasses.fields(owner)
        if "help" in field.metadata and field.default is not MISSING
    )


class CheckedOptions:
    """Base class of frozen dataclasses with options: values are checked and converted when one is made.

    A field whose type is an enum takes a member or its value, and holds the member. A declared number must have the
    declared type and lie in its range.
    """

    def __post_init__(self) -> None:
        """Raise `AttackError` for a value of the wrong type, outside its range, or not among its choices."""
        owner: Any = type(self)
        for name, kind in _enum_fields(owner).items():
            object.__setattr__(self, name, _member(owner, name, kind, getattr(self, name)))
        for declared in declared_options(owner):
            if not issubclass(declared.type, Enum):
                object.__setattr__(self, declared.name, _number(owner, declared, getattr(self, declared.name)))


@cache
def _enum_fields(owner: type) -> dict[str, type[Enum]]:
    types = get_type_hints(owner)
    names = [field.name for field in dataclasses.fields(owner)]
    return {name: types[name] for name in names if isinstance(types[name], type) and issubclass(types[name], Enum)}


def _choices(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(str(member.value) for member in kind)


def _member(owner: type, name: str, kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise AttackError(f"{owner.__name__}: {name} = {value!r}; choose one of {', '.join(_choices(kind))}") from None


def _number(owner: type, declared: Option, value: Any) -> bool | int | float:
    """Return `value` as the declared type: bool, int or float."""
    accepted, said = _ACCEPTED[declared.type]
    is_bool = isinstance(value, bool | np.bool_)
    if not isinstance(value, accepted) or (is_bool and declared.type is not bool):
        raise AttackError(f"{owner.__name__}: {declared.name} = {value!r} is not {said}; {declared.help}")
    converted: bool | int | float = declared.type(value)
    low = -math.inf if declared.minimum is None else declared.minimum
    high = math.inf if declared.maximum is None else declared.maximum
    if not (math.isfinite(converted) and low <= converted <= high):
        raise AttackError(
            f"{owner.__name__}: {declared.name} = {value} is outside its range [{low:g}, {high:g}]"
            f"{' ' + declared.unit if declared.unit else ''}; {declared.help}"
        )
    return converted


_ACCEPTED: Mapping[type, tuple[Any, str]] = {
    bool: (bool | np.bool_, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
}


def check_names(owner: type, values: Mapping[str, Any]) -> None:
    """Raise `AttackError` when `values` names an option that `owner` does not declare."""
    known = [declared.name for declared in declared_options(owner)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise AttackError(f"{owner.__name__} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")


def plain_options(holder: Any) -> dict[str, Any]:
    """Return all fields of the options dataclass `holder` as JSON values, enums as their values.

    Raises `AttackError` for a field that JSON cannot represent.
    """
    found = {}
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        value = value.value if isinstance(value, Enum) else value
        if not isinstance(value, bool | int | float | str | None):
            raise AttackError(
                f"{type(holder).__name__}: {field.name} is a {type(value).__name__}, which cannot be recorded; "
                "use numbers, strings, booleans or enums as options"
            )
        found[field.name] = value
    return found
