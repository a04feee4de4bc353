"""The targets that a seed draws, before the attack is started."""

from collections.abc import Sequence

from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.live.victim import Victim, prepare_victim
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.options import AttackError


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
