"""The defenses by name. Adding one takes a file and a line here, in `DEFENSES`."""

import difflib
from collections.abc import Callable
from typing import Final

from hardrank.trainer.defenses.act import AntiCollapseTriplet
from hardrank.trainer.defenses.defense import Defense, DefenseError
from hardrank.trainer.defenses.destinations import Balanced, Gradual
from hardrank.trainer.defenses.est import EmbeddingShifted
from hardrank.trainer.defenses.fare import AnchoredFineTuning
from hardrank.trainer.defenses.hm import HardnessManipulation
from hardrank.trainer.defenses.margin import MarginDefense
from hardrank.trainer.defenses.minmax import MinMax
from hardrank.trainer.defenses.notation import Notation, parse_destination, parse_notation, parse_sampler
from hardrank.trainer.defenses.regular import Regular
from hardrank.trainer.defenses.tride import TripletDecoupling
from hardrank.trainer.metric.losses import MARGIN


def _of_sampler(kind: type[Regular | AntiCollapseTriplet | MinMax]) -> Callable[[Notation, float], Defense]:
    """Return the constructor of a defense that has a sampler and no options."""

    def build(notation: Notation, margin: float) -> Defense:
        notation.allow()
        return kind(sampler=parse_sampler(notation.argument(0, of=1)))

    return build


def _est(notation: Notation, margin: float) -> Defense:
    notation.allow()
    as_released = notation.family == "EST-released"
    return EmbeddingShifted(sampler=parse_sampler(notation.argument(0, of=1)), as_released=as_released)


def _fare(notation: Notation, margin: float) -> Defense:
    notation.allow("lambda")
    notation.no_arguments()
    return AnchoredFineTuning(benign_weight=notation.option("lambda", 0.0, least=0))


def _margin(notation: Notation, margin: float) -> Defense:
    notation.allow("margin", "lambda")
    notation.no_arguments()
    return MarginDefense(
        attack_margin=notation.option("margin", 0.2, least=0), benign_weight=notation.option("lambda", 0.0, least=0)
    )


def _tride(notation: Notation, margin: float) -> Defense:
    notation.allow("lambda")
    return TripletDecoupling(
        sampler=parse_sampler(notation.argument(0, of=1)), temperature=notation.option("lambda", 10.0, least=0)
    )


def _hm(notation: Notation, margin: float) -> Defense:
    notation.allow("u", "xi", "lambda", "gamma", ics=True)
    destination = parse_destination(
        notation.argument(1, of=2),
        margin=margin,
        u=notation.option("u", margin, above=0) if "u" in notation.options else None,
        xi=notation.option("xi", 0.1, least=0),
    )
    notation.only_with("u", "g_LGA, g_2, g_1/2 and g_B(…)", present=isinstance(destination, Gradual | Balanced))
    xi_is_free = isinstance(destination, Balanced) and ";" not in notation.arguments[1]
    notation.only_with("xi", "a g_B(…) without xi in it", present=xi_is_free)
    for name in ("lambda", "gamma"):
        notation.only_with(name, "&ICS", present=notation.ics)
    return HardnessManipulation(
        source=parse_sampler(notation.argument(0, of=2)),
        destination=destination,
        ics=notation.option("lambda", 0.5, least=0) if notation.ics else 0.0,
        ics_margin=notation.option("gamma", 0.0, least=0),
    )


DEFENSES: Final[dict[str, Callable[[Notation, float], Defense]]] = {
    "regular": _of_sampler(Regular),
    "N/A": _of_sampler(Regular),
    "ACT": _of_sampler(AntiCollapseTriplet),
    "HM": _hm,
    "EST": _est,
    "EST-released": _est,
    "minmax": _of_sampler(MinMax),
    "min-max": _of_sampler(MinMax),
    "TRIDE": _tride,
    "FARE": _fare,
    "MARGIN": _margin,
}
"""Family name → constructor from its notation."""


def parse_defense(name: str, *, margin: float = MARGIN) -> Defense:
    """Return the defense of a name in the paper's notation.

    Args:
        name: For example `HM[S,g_LGA]&ICS`.
        margin: γ of the triplet loss, in which destinations such as `-gamma/2` are expressed.

    Raises:
        DefenseError: an unknown family, sampler, destination or option.
    """
    notation = parse_notation(name)
    if notation.family not in DEFENSES:
        near = difflib.get_close_matches(notation.family.lower(), map(str.lower, DEFENSES), n=1)
        meant = next((f"; did you mean {family}?" for family in DEFENSES if [family.lower()] == near), "")
        raise DefenseError(f"unknown defense {notation.family!r} in {name!r}; available: {', '.join(DEFENSES)}{meant}")
    return DEFENSES[notation.family](notation, margin)
