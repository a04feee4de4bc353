"""What is asked of a live attack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.choice import SearchMethod, search_name
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """What is done to the image. Raises `AuditError` or `AttackError` for what cannot be."""

    attack: str = "QA+"
    """Name of the attack."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the attack, as it declares them."""
    engine: AttackOptions = field(default_factory=AttackOptions)
    """ε, α, steps and the rest, as the engine declares them."""
    targets: tuple[str, ...] | None = None
    """Ids of the gallery's items to aim at; None: drawn from the seed."""
    seed: int = 0
    """Of what is drawn: targets and random starts."""
    k: int = 10
    """How many items the head of a ranking has."""
    transform: TransformOptions = field(default_factory=TransformOptions)
    """What the adversarial image is put through afterwards."""
    method: SearchMethod = SearchMethod.AUTO
    """How adversarial images are found."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Options of the black-box search, as it declares them."""
    threads: int = 1
    """Of PyTorch, for each model; results may differ in the last digits between numbers of threads."""
    pace: float | None = None
    """Most steps a second, for eyes to follow; None: as fast as can be. Results do not depend on it."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.threads < 1 or self.seed < 0:
            raise AuditError(
                f"k = {self.k}, threads = {self.threads}, seed = {self.seed}: give k and threads ≥ 1, seed ≥ 0"
            )
        if self.pace is not None and not self.pace > 0:
            raise AuditError(f"the pace is {self.pace} steps a second; give a number above 0, or none")
        self.build()
        if self.search:
            make_search(self.searched, **self.search)

    def build(self) -> Attack:
        """Make the attack; raises `AttackError` for unknown names and values."""
        return make_attack(self.attack, **self.settings)

    @property
    def searched(self) -> str:
        """Name of the black-box search for models without gradients."""
        return search_name(self.method, self.engine.norm)
