"""Options of an audit: attacks, budgets, black-box search, curves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from hardrank.audit_app.blackbox import make_search
from hardrank.audit_app.blackbox.choice import SearchMethod, search_name
from hardrank.audit_app.errors import AuditError
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.options import Option, declared_options
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD, offered_attacks
from hardrank.trainer.evaluation.certificates import SmoothingOptions
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.strong import STRONG_IMAGES
from hardrank.trainer.evaluation.threats import ThreatOptions


class CurveParameter(StrEnum):
    """The parameter of a budget curve."""

    EPSILON = "epsilon"
    STEPS = "steps"
    """Of gradient descent."""
    QUERIES = "queries"
    """Of a black-box search."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A requested budget curve. Raises `AuditError` for invalid values."""

    parameter: CurveParameter
    values: tuple[float, ...]
    """In increasing order."""

    def __post_init__(self) -> None:
        whole = self.parameter is not CurveParameter.EPSILON
        good = all(value > 0 and (not whole or value == int(value)) for value in self.values)
        if not self.values or not good or list(self.values) != sorted(set(self.values)):
            raise AuditError(
                f"the curve over {self.parameter} has the values {', '.join(f'{v:g}' for v in self.values) or 'none'}; "
                f"give positive {'whole ' if whole else ''}numbers in increasing order"
            )


@dataclass(frozen=True, kw_only=True)
class CertificateOptions:
    """How Recall@1 is certified by randomized smoothing. Raises `AuditError` or `AttackError` for invalid values."""

    images: int = 100
    """Number of images, of those that are attacked."""
    sigmas: tuple[float, ...] = (0.1, 0.25)
    """Standard deviations σ of the noise, for pixels in [0,1]."""
    samples: int = 1000
    """Noisy copies of each image."""
    alpha: float = 0.001
    """For each image, the probability of a wrong certificate."""

    def __post_init__(self) -> None:
        if self.images < 1 or not self.sigmas or len(set(self.sigmas)) < len(self.sigmas):
            raise AuditError(
                f"{self.images} images are certified with σ = {', '.join(f'{s:g}' for s in self.sigmas) or 'none'}; "
                "give 1 image or more, and each σ once"
            )
        for sigma in self.sigmas:
            self.smoothing(sigma)

    def smoothing(self, sigma: float) -> SmoothingOptions:
        """Return the options of one σ."""
        return SmoothingOptions(sigma=sigma, samples=self.samples, alpha=self.alpha)

    @property
    def passes(self) -> int:
        """Forward passes for each image."""
        return sum(self.samples + self.smoothing(sigma).selection for sigma in self.sigmas)


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Options of an audit. Raises `AuditError` or `AttackError` for invalid values."""

    attacks: tuple[str, ...] = SCORECARD
    """Names of the attacks; by default those of the scorecard, of which nine give the ten results of ERS."""
    attacked: int | None = 500
    """Number of attacked images, a seeded sample of the gallery; None for all."""
    seed: int = 0
    """Seed of the sample, the targets and the random starts."""
    batch: int = 128
    """Images attacked at a time. Results depend on it only by rounding."""
    robustness: RobustnessOptions = field(default_factory=RobustnessOptions)
    """ε, α, steps, engine and the rest."""
    method: SearchMethod = SearchMethod.AUTO
    search: Mapping[str, Any] = field(default_factory=dict)
    """Options of the black-box search, as it declares them."""
    curves: tuple[Curve, ...] = ()
    curve_attacked: int = 50
    """Number of attacked images at each point of a curve."""
    worst: int = 6
    """Number of weakest queries and classes in the report."""
    transform_images: int = 0
    """Number of attacked images on which edits, and the survival of attacks through transforms, are measured."""
    certificates: CertificateOptions | None = None
    """How Recall@1 is certified; None: not at all."""
    threats: ThreatOptions = field(default_factory=ThreatOptions)
    """Other threat models, which are measured apart from the attacks."""

    def __post_init__(self) -> None:
        if not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise AuditError(
                f"the attacks are {', '.join(self.attacks) or 'none'}; name each once: {', '.join(offered_attacks())}"
            )
        if apart := [name for name in self.attacks if name in ATTACKS and not ATTACKS[name].offered]:
            raise AuditError(f"{apart[0]} is measured apart from the other attacks; use --threats")
        if self.transform_images < 0:
            raise AuditError(f"transform_images is {self.transform_images}; give 0 (none) or more")
        if self.seed < 0 or self.batch < 1 or self.curve_attacked < 1 or self.worst < 0:
            raise AuditError(
                f"seed is {self.seed}, worst {self.worst}, batch {self.batch}, curve_attacked {self.curve_attacked}; "
                "give seed and worst of 0 or more, batch and curve_attacked of 1 or more"
            )
        if self.attacked is not None and self.attacked < 1:
            raise AuditError(f"the number of attacked images is {self.attacked}; give 1 or more, or 0 for all")
        if self.search:
            make_search(self.searched, **self.search)
        self.build()

    @property
    def searched(self) -> str:
        """Name of the black-box search for models without gradients."""
        return search_name(self.method, self.robustness.norm)

    def build(self) -> dict[str, Attack]:
        """Make the attacks; raises `AttackError` for unknown names."""
        return self.robustness.attacks(self.attacks)


def budget_options() -> tuple[Option, ...]:
    """Return the options of `RobustnessOptions` with the defaults of an audit, which measures the strong ERS."""
    return tuple(
        replace(option, default=STRONG_IMAGES) if option.name == "strong_images" else option
        for option in declared_options(RobustnessOptions)
    )
