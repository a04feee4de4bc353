"""How an attack is declared: its name, the words that pages and reports use for it, and how it is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.options import Option, check_names, declared_options


@dataclass(frozen=True, kw_only=True)
class TargetChoice:
    """That a person may choose the targets of an attack among the items of the gallery."""

    noun: str
    """What a target is called: `target`, or `query` for an attack on a candidate."""
    count_option: str | None = None
    """The option that holds the number of targets; None: there is exactly one."""


@dataclass(frozen=True, kw_only=True)
class AttackKind:
    """An attack as command lines, pages, reports and documentation know it."""

    name: str
    """Short and unique, as `QA+`."""
    title: str
    """What the attacker wants, in one line."""
    story: str
    """The same for a page that shows one image, as a sentence; `{target}` stands for the targets."""
    build: type
    """The attack's frozen dataclass."""
    targets: TargetChoice | None = None
    """How targets are chosen by hand; None: the attack needs none, or finds them itself."""
    ordered: bool = False
    """Whether the goal is an order of the targets."""
    offered: bool = True
    """Whether scorecards and pages offer it: False if one image's ranking does not show its goal."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the name determines, such as the direction; callers cannot set them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that differ from those of the dataclass."""
    aimed: Mapping[str, Any] = field(default_factory=dict)
    """Options with which the loss aims at the reported figure, where the defaults, those of the protocol, do not."""

    @property
    def options(self) -> tuple[Option, ...]:
        """The options that a caller may set: name, type, default, range, unit, help."""
        return tuple(
            replace(declared, default=self.defaults.get(declared.name, declared.default))
            for declared in declared_options(self.build)
            if declared.name not in self.fixed
        )

    def make(self, **options: Any) -> Attack:
        """Build the attack; raises `AttackError` for unknown options and invalid values."""
        check_names(self.build, options)
        attack: Attack = self.build(**{**self.defaults, **options, **self.fixed})
        return attack

    def aim(self, attack: Attack) -> Attack:
        """Return `attack`, one of this kind, with a loss that aims at the reported figure."""
        aimed: Attack = replace(attack, **self.aimed)  # type: ignore[type-var]
        return aimed
