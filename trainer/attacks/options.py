"""Options declared as data: name, type, range, unit, help; for command lines and pages."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from typing import Any, get_type_hints

from hardrank.models.errors import HardrankError


class AttackError(HardrankError):
    """Options or inputs with which an attack cannot be run."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a command line or a page needs to know of an option."""

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
        return tuple(str(member.value) for member in self.type) if issubclass(self.type, Enum) else ()


def option(
    default: Any, *, help: str, unit: str = "", minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Declare a field of a frozen options dataclass, with its inclusive range."""
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


def declared_options(owner: type) -> tuple[Option, ...]:
    """List the options that the dataclass `owner` declares, in order."""
    types = get_type_hints(owner)
    return tuple(
        Option(name=field.name, type=types[field.name], default=field.default, **field.metadata)
        for field in dataclasses.fields(owner)
        if "help" in field.metadata and field.default is not MISSING
    )


def check_ranges(holder: Any) -> None:
    """Raise `AttackError` when a number among the options of `holder` is outside its range or not finite."""
    for declared in declared_options(type(holder)):
        value = getattr(holder, declared.name)
        if isinstance(value, bool | Enum):
            continue
        low = -math.inf if declared.minimum is None else declared.minimum
        high = math.inf if declared.maximum is None else declared.maximum
        if not (math.isfinite(value) and low <= value <= high):
            raise AttackError(
                f"{type(holder).__name__}: {declared.name} = {value} is outside its range [{low:g}, {high:g}]"
                f"{' ' + declared.unit if declared.unit else ''}; {declared.help}"
            )


def check_names(owner: type, values: Mapping[str, Any]) -> None:
    """Raise `AttackError` when `values` names an option that `owner` does not declare."""
    known = [declared.name for declared in declared_options(owner)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise AttackError(f"{owner.__name__} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
