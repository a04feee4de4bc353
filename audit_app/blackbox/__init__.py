"""Attacks that may only ask a model for embeddings: no weights, no gradients. Each is a file, and a line here.

All minimise the objectives of `hardrank.trainer.attacks`, and each is a `Method` of the attack runner: it can take the
place of `run_attack`, in a scorecard too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.nes import NES
from hardrank.audit_app.blackbox.spsa import SPSA
from hardrank.audit_app.blackbox.square import SquareSearch
from hardrank.trainer.attacks.options import AttackError, Option, check_names, declared_options


@dataclass(frozen=True)
class SearchKind:
    """A black-box attack that can be asked for by name."""

    title: str
    """What it does, in a line."""
    build: type[Search]

    @property
    def options(self) -> tuple[Option, ...]:
        """The options it declares: name, type, range, unit, help."""
        return declared_options(self.build)


SEARCHES: Final[Mapping[str, SearchKind]] = {
    "nes": SearchKind("descends along gradients estimated from pairs of Gaussian steps", NES),
    "spsa": SearchKind("descends along gradients estimated from pairs of steps of ±σ in every pixel", SPSA),
    "square": SearchKind("tries random squares at the edge of the budget and keeps those that help", SquareSearch),
}
"""The searches. Beside them stands `hardrank.audit_app.blackbox.transfer.Transfer`, which needs a second model."""


def make_search(name: str, **options: Any) -> Search:
    """Build the search called `name` with its options; raises `AttackError` for unknown names and values."""
    if name not in SEARCHES:
        raise AttackError(f"there is no black-box attack {name!r}; there are {', '.join(SEARCHES)}, and transfer")
    check_names(SEARCHES[name].build, options)
    return SEARCHES[name].build(**options)
