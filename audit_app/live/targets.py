"""The targets of a live attack, chosen by hand or drawn from the seed, and the rank that shows its progress."""

from collections.abc import Mapping, Sequence
from typing import Any

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.live.victim import Victim, prepare_victim
from hardrank.trainer.attacks.attack import Attack, AttackedRole
from hardrank.trainer.attacks.options import AttackError
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


def drawn_targets(
    galleries: Sequence[ServedGallery], victim: Victim, attack: Attack, *, seed: int
) -> dict[str, tuple[int, ...]]:
    """Return the gallery rows that the attack would aim at, by model; empty for an attack without targets.

    Models differ where targets depend on their rankings. An attack that the gallery does not allow has none; starting
    it tells why.

    Raises:
        UndecodableImageError: The image under attack cannot be read.
    """
    found: dict[str, tuple[int, ...]] = {}
    if attack.target_count == 0:
        return found
    for served in galleries:
        try:
            rows = attack.draw(prepare_victim(victim, served).victims, served.embedded.tensors, seed=seed)
        except AttackError:
            return {}
        found[served.name] = tuple(int(row) for row in rows[0])
    return found
