"""The attacks by name. Adding one is a file and a line here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.ca import CandidateAttack
from hardrank.trainer.attacks.direction import Direction
from hardrank.trainer.attacks.es import EmbeddingShift
from hardrank.trainer.attacks.gtm import GreedyTopMisranking
from hardrank.trainer.attacks.gtt import GreedyTopTranslocation
from hardrank.trainer.attacks.ltm import LearningToMisrank
from hardrank.trainer.attacks.options import AttackError, Option, check_names, declared_options
from hardrank.trainer.attacks.order import OrderAttack
from hardrank.trainer.attacks.qa import QueryAttack
from hardrank.trainer.attacks.spqa import SemanticsPreservingQueryAttack
from hardrank.trainer.attacks.tma import TargetedMismatch


@dataclass(frozen=True)
class Kind:
    """An attack that can be asked for by name."""

    title: str
    """What it does, in a line."""
    build: type
    """The attack's dataclass."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What the name decides, as the direction."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of its own."""

    @property
    def options(self) -> tuple[Option, ...]:
        """The options it declares: name, type, range, unit, help."""
        return tuple(
            replace(o, default=self.defaults.get(o.name, o.default))
            for o in declared_options(self.build)
            if o.name not in self.fixed
        )


_UP: Final = {"direction": Direction.RAISE}
_DOWN: Final = {"direction": Direction.LOWER}

ATTACKS: Final[Mapping[str, Kind]] = {
    "CA+": Kind("an image rises to the top of other queries' rankings", CandidateAttack, _UP),
    "CA-": Kind("an image falls to the end of other queries' rankings", CandidateAttack, _DOWN),
    "QA+": Kind("chosen candidates rise to the top of the query's ranking", QueryAttack, _UP),
    "QA-": Kind("chosen candidates fall to the end of the query's ranking", QueryAttack, _DOWN),
    "TMA": Kind("the query takes the embedding of another image", TargetedMismatch),
    "ES": Kind("the query moves far from its own embedding", EmbeddingShift),
    "LTM": Kind("items of other classes rank before items of the query's class", LearningToMisrank),
    "GTM": Kind("the query moves to an item of another class", GreedyTopMisranking),
    "GTT": Kind("the top-1 item leaves the head of the ranking", GreedyTopTranslocation),
    "SPQA+": Kind("as QA+, the query's top matches kept in place", SemanticsPreservingQueryAttack, _UP),
    "SPQA-": Kind(
        "as QA-, the query's top matches kept in place",
        SemanticsPreservingQueryAttack,
        _DOWN,
        {"weight": 100.0},
    ),
    "ORDER": Kind("the first k items appear in a chosen order", OrderAttack),
}

SCORECARD: Final = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES", "LTM", "GTM", "GTT")
"""The nine attacks that give the ten results of ERS."""


def make_attack(name: str, **options: Any) -> Attack:
    """Build the attack called `name` with its options; raises `AttackError` for unknown names and values."""
    if name not in ATTACKS:
        raise AttackError(f"there is no attack {name!r}; there are {', '.join(ATTACKS)}")
    kind = ATTACKS[name]
    check_names(kind.build, options)
    attack: Attack = kind.build(**{**kind.defaults, **options, **kind.fixed})
    return attack


def standard_attacks() -> dict[str, Attack]:
    """Build the attacks of the scorecard as published: w = 1, m = 1."""
    return {name: make_attack(name) for name in SCORECARD}
