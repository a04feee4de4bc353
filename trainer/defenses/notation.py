"""Parser of the paper's notation: FAMILY[ARGUMENT,…]&ICS (option=value, …)."""

import math
import re
from dataclasses import dataclass
from typing import Final

from hardrank.trainer.defenses.defense import DefenseError
from hardrank.trainer.defenses.destinations import (
    SYMBOLIC_CONSTANTS,
    Balanced,
    BenignTriplet,
    Constant,
    Destination,
    Gradual,
    Growth,
)
from hardrank.trainer.metric.samplers import Sampler

_NAME: Final = re.compile(
    r"""(?P<family>[^\[\]&()\s]+) (?:\[(?P<arguments>[^\[\]]*)\])? (?P<ics>\s*&\s*(?:L_)?ICS)?
        \s*(?P<options>(?:\([^()]*\)\s*)*)""",
    re.VERBOSE,
)
_OPTION: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*([^,\s]+)\s*")


@dataclass(frozen=True)
class Notation:
    """A parsed defense name."""

    text: str
    family: str
    arguments: tuple[str, ...]
    ics: bool
    options: dict[str, float]

    def argument(self, index: int, *, of: int) -> str:
        """Return the argument at `index`; raises `DefenseError` unless there are exactly `of`."""
        if len(self.arguments) != of:
            needed = f"{of} argument{'s' if of > 1 else ''}"
            example = f"{self.family}[S,g_LGA]" if of > 1 else f"{self.family}[S]"
            raise DefenseError(
                f"{self.text!r}: {self.family} takes {needed} in brackets, not {len(self.arguments)}; write {example}"
            )
        return self.arguments[index]

    def no_arguments(self) -> None:
        """Raise `DefenseError` for arguments in brackets."""
        if self.arguments:
            raise DefenseError(f"{self.text!r}: {self.family} takes no argument in brackets; write {self.family}")

    def option(self, name: str, default: float, *, least: float = -math.inf, above: float = -math.inf) -> float:
        """Return an option, or `default`; raises `DefenseError` for a value below `least`, or not above `above`."""
        value = self.options.get(name, default)
        if value < least:
            raise DefenseError(f"{self.text!r}: {name} of {self.family} must be at least {least:g}, not {value:g}")
        if value <= above:
            raise DefenseError(f"{self.text!r}: {name} of {self.family} must be above {above:g}, not {value:g}")
        return value

    def allow(self, *options: str, ics: bool = False) -> None:
        """Raise `DefenseError` for options, or &ICS, that the family does not have."""
        if self.ics and not ics:
            raise DefenseError(f"{self.text!r}: {self.family} does not support &ICS")
        if others := sorted(set(self.options) - set(options)):
            known = f"its options are {', '.join(options)}" if options else "it takes no options"
            raise DefenseError(f"{self.text!r}: {self.family} has no option {others[0]!r}; {known}")

    def only_with(self, option: str, needed: str, *, present: bool) -> None:
        """Raise `DefenseError` for an option without effect, because the setting it needs is absent."""
        if option in self.options and not present:
            raise DefenseError(f"{self.text!r}: {option} applies only to {needed}; remove it")


def parse_notation(text: str) -> Notation:
    """Split a name into its parts; raises `DefenseError` with an example if it is invalid."""
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise DefenseError(f"cannot read the defense {text!r}; write it as in HM[S,g_LGA]&ICS, ACT[R] or regular[S]")
    arguments = tuple(part.strip() for part in match["arguments"].split(",")) if match["arguments"] else ()
    if not all(arguments):
        raise DefenseError(f"{text!r} has an empty argument in its brackets; remove the comma")
    pairs = [_option(part, text) for part in re.split(r"[(),]", match["options"]) if part.strip()]
    options = dict(pairs)
    if len(options) < len(pairs):
        raise DefenseError(f"{text!r} repeats an option; remove one")
    return Notation(text, match["family"], arguments, match["ics"] is not None, options)


def _option(part: str, text: str) -> tuple[str, float]:
    match = _OPTION.fullmatch(part)
    value = _number(match[2]) if match else None
    if match is None or value is None:
        raise DefenseError(f"cannot read the option {part.strip()!r} of {text!r}; write (u=2.2)")
    return match[1], value


def parse_sampler(letter: str) -> Sampler:
    """Return the sampler of a letter, R M S D or H; raises `DefenseError` for another."""
    try:
        return Sampler(letter)
    except ValueError:
        known = ", ".join(f"{sampler} ({sampler.name.lower()})" for sampler in Sampler)
        raise DefenseError(f"unknown sampler {letter!r}; choose one of {known}") from None


def parse_destination(text: str, *, margin: float, u: float | None, xi: float) -> Destination:
    """Parse a number, a sampler's letter, g_LGA, g_2, g_1/2, g_B(…), -gamma or -gamma/2."""
    if match := re.fullmatch(r"g_B\(([^;]*)(?:;(.*))?\)", text):
        name, own = _option(match[2], text) if match[2] else ("xi", xi)
        if name != "xi" or own < 0:
            raise DefenseError(f"cannot read {match[2]!r} in {text!r}; write g_B(M;xi=0.1), xi at least 0")
        return Balanced(parse_destination(match[1], margin=margin, u=None, xi=own), xi=own, u=u)
    plain = text.replace("γ", "gamma").replace("−", "-")
    if plain in SYMBOLIC_CONSTANTS:
        return Constant(SYMBOLIC_CONSTANTS[plain](margin), plain)
    if text in set(Growth):
        return Gradual(growth=Growth(text), u=u)
    if text in set(Sampler):
        return BenignTriplet(Sampler(text))
    if (value := _number(plain)) is not None and -2 <= value <= 2:
        return Constant(value)
    raise DefenseError(
        f"unknown destination {text!r}; use a hardness from -2 to 2, a sampler (R M S D H), -gamma, "
        f"-gamma/2, {', '.join(Growth)} or g_B(…)"
    )


def _number(text: str) -> float | None:
    """Return the finite number in `text`, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
