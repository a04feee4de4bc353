"""How an attack on a page is aimed at chosen items, and whose rank shows its progress."""

from collections.abc import Mapping
from typing import Any

from hardrank.trainer.attacks.attack import Attack, AttackedRole
from hardrank.trainer.attacks.registry import ATTACKS


def with_count(name: str, settings: Mapping[str, Any], chosen: int) -> dict[str, Any]:
    """Return an attack's options with the number of targets that were chosen by hand."""
    targets = ATTACKS[name].targets
    if targets is None or targets.count_option is None:
        return dict(settings)
    return {**settings, targets.count_option: chosen}


def watched(attack: Attack) -> str:
    """Name the rank that shows how far an attack got."""
    if attack.role is AttackedRole.CANDIDATE:
        return "rank of the attacked image"
    return "rank of the target" if attack.target_count else "rank of the original top result"
