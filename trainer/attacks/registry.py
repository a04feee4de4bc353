"""The attacks by name. Adding one takes a file and a line here."""

from collections.abc import Mapping
from typing import Any, Final

from hardrank.trainer.attacks import ca, es, gtm, gtt, hub, ltm, margin, order, qa, spqa, tma
from hardrank.trainer.attacks.attack import Attack, Figure
from hardrank.trainer.attacks.declaration import AttackKind
from hardrank.trainer.attacks.options import AttackError

ATTACKS: Final[Mapping[str, AttackKind]] = {
    kind.name: kind
    for kind in (
        *ca.KINDS,
        *qa.KINDS,
        *tma.KINDS,
        *es.KINDS,
        *ltm.KINDS,
        *gtm.KINDS,
        *gtt.KINDS,
        *margin.KINDS,
        *spqa.KINDS,
        *order.KINDS,
        *hub.KINDS,
    )
}

ERS_ATTACKS: Final = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES", "LTM", "GTM", "GTT")
"""The nine attacks that give the ten results of ERS."""

SCORECARD: Final = (*ERS_ATTACKS, "MARGIN")
"""What a scorecard measures: the attacks of ERS, and one more for the worst case of Recall@1."""


def make_attack(name: str, **options: Any) -> Attack:
    """Build an attack.

    Args:
        name: a key of `ATTACKS`, such as `QA+`.
        options: the options that `ATTACKS[name].options` lists; an enum as a member or as its value.

    Raises:
        AttackError: for an unknown name or option, or an invalid value.
    """
    if name not in ATTACKS:
        raise AttackError(f"unknown attack {name!r}; available: {', '.join(ATTACKS)}")
    return ATTACKS[name].make(**options)


def offered_attacks() -> tuple[str, ...]:
    """Return the names of the attacks that scorecards and pages offer; see `AttackKind.offered`."""
    return tuple(name for name, kind in ATTACKS.items() if kind.offered)


def known_figures() -> dict[str, Figure]:
    """Return the figures of all registered attacks with their default options, by key."""
    return {figure.key: figure for kind in ATTACKS.values() for figure in kind.make().figures}


def kind_of_figure(key: str) -> AttackKind | None:
    """Return the attack that reports the figure `key`, such as ES for `ES:D`; None where no registered one does."""
    for kind in ATTACKS.values():
        if key in (figure.key for figure in kind.make().figures):
            return kind
    return None
