"""Options of a live attack."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.choice import SearchMethod, search_name
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.images.transforms import TransformOptions
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions

STRONG_STEPS: Final = 64
STRONG_RESTARTS: Final = 4


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """Options of a live attack. Raises `AuditError` or `AttackError` for invalid values."""

    attack: str = "QA+"
    """Name of the attack."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the attack, as it declares them."""
    engine: AttackOptions = field(default_factory=AttackOptions)
    """ε, α, steps and the other options of the engine."""
    targets: tuple[str, ...] | None = None
    """Ids of the gallery items to aim at; None to draw them from the seed."""
    seed: int = 0
    """Seed of targets and random starts."""
    k: int = 10
    """How many of the first items of rankings are compared."""
    transform: TransformOptions = field(default_factory=TransformOptions)
    """Transforms that are applied to the adversarial image afterwards."""
    method: SearchMethod = SearchMethod.AUTO
    """How adversarial images are found."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Options of the black-box search, as it declares them."""
    threads: int = 1
    """Threads of PyTorch for each model. Results may differ in the last digits between numbers of threads."""
    pace: float | None = None
    """Most steps a second, for display; None for no limit. Results do not depend on it."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.threads < 1 or self.seed < 0:
            raise AuditError(
                f"k = {self.k}, threads = {self.threads}, seed = {self.seed}: give k and threads ≥ 1, seed ≥ 0"
            )
        if self.pace is not None and not self.pace > 0:
            raise AuditError(f"the pace is {self.pace} steps a second; give a positive number, or None for no limit")
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

    def stronger(self) -> "LiveOptions":
        """Return the options of a stronger attack: APGD, more restarts and steps, without a limit on its pace."""
        engine = replace(
            self.engine,
            engine=AttackEngine.APGD,
            restarts=max(self.engine.restarts, STRONG_RESTARTS),
            steps=max(self.engine.steps, STRONG_STEPS),
        )
        return replace(self, engine=engine, pace=None)

    @property
    def is_strong(self) -> bool:
        """Whether `stronger` would change nothing but the pace."""
        return replace(self.stronger(), pace=self.pace) == self
