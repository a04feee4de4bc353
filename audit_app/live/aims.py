"""Which attacks can be aimed by hand, and what a reader is told of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hardrank.audit_app.ranking.views import Role, role_of
from hardrank.trainer.attacks.attack import Attack


@dataclass(frozen=True, kw_only=True)
class Aim:
    """How an attack is aimed at items of the gallery."""

    count: str | None
    """Its option that says at how many; None: at one."""
    called: str
    """What the items are, as `target`."""


AIMS: Final[Mapping[str, Aim]] = {
    "CA+": Aim(count="w", called="query"),
    "CA-": Aim(count="w", called="query"),
    "QA+": Aim(count="m", called="target"),
    "QA-": Aim(count="m", called="target"),
    "SPQA+": Aim(count="m", called="target"),
    "SPQA-": Aim(count="m", called="target"),
    "TMA": Aim(count=None, called="target"),
}
"""Attacks that aim where one likes. The others need nothing, or find their aim by the ranking itself."""

STORIES: Final[Mapping[str, str]] = {
    "CA+": "This image is changed so that it rises to the top when one searches with {aim}.",
    "CA-": "This image is changed so that it falls to the end when one searches with {aim}.",
    "QA+": "This image is changed so that {aim} becomes the first answer to it.",
    "QA-": "This image is changed so that {aim} vanishes from the answers to it.",
    "SPQA+": "This image is changed so that {aim} becomes an answer to it, while its best answers stay.",
    "SPQA-": "This image is changed so that {aim} vanishes from the answers to it, while its best answers stay.",
    "TMA": "This image is changed so that the model takes it for {aim}.",
    "ES": "This image is changed so that the model no longer knows it: all answers to it change.",
    "LTM": "This image is changed so that things of other kinds are found before things of its own.",
    "GTM": "This image is changed so that the first answer to it is of another kind.",
    "GTT": "This image is changed so that its first answer is no longer among the first four.",
    "ORDER": "This image is changed so that its first answers appear in another order.",
}


def with_count(name: str, settings: Mapping[str, Any], chosen: int) -> dict[str, Any]:
    """Give an attack's options with the number of targets that were chosen by hand."""
    aim = AIMS.get(name)
    return dict(settings) if aim is None or aim.count is None else {**settings, aim.count: chosen}


def watched(attack: Attack) -> str:
    """Say whose rank tells how far an attack came."""
    if role_of(attack) is Role.CANDIDATE:
        return "rank of the attacked image"
    return "rank of the target" if attack.target_count else "rank of the former first answer"
