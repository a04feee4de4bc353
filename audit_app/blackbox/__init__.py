"""Black-box attacks, which only query a model. To add one, write a file and add a line here.

All minimize the objectives of `hardrank.trainer.attacks` from embeddings, except `ranks`, which sees ids alone. Each is
a `Method` of the attack runner, so it can replace `run_attack`, in a scorecard too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.nes import NES
from hardrank.audit_app.blackbox.ranks import RankSearch
from hardrank.audit_app.blackbox.spsa import SPSA
from hardrank.audit_app.blackbox.square import SquareSearch
from hardrank.trainer.attacks.options import AttackError, Option, check_names, declared_options


@dataclass(frozen=True)
class SearchKind:
    """A black-box search."""

    title: str
    """What it does, in one line."""
    build: type[Search]

    @property
    def options(self) -> tuple[Option, ...]:
        """The options it declares: name, type, range, unit, help."""
        return declared_options(self.build)


SEARCHES: Final[Mapping[str, SearchKind]] = {
    "nes": SearchKind("descends along gradients estimated from pairs of Gaussian steps", NES),
    "spsa": SearchKind("descends along gradients estimated from pairs of steps of ±σ in every pixel", SPSA),
    "square": SearchKind("tries random squares at the edge of the budget and keeps those that help", SquareSearch),
    "ranks": SearchKind("sees only the ids of the first results, and keeps what moves their ranks", RankSearch),
}
"""The searches by name. `hardrank.audit_app.blackbox.transfer.Transfer` needs a second model, so it is separate."""


def make_search(name: str, **options: Any) -> Search:
    """Build a search with its options; raises `AttackError` for unknown names and invalid values."""
    if name not in SEARCHES:
        raise AttackError(f"unknown black-box search {name!r}; choose one of {', '.join(SEARCHES)}")
    check_names(SEARCHES[name].build, options)
    return SEARCHES[name].build(**options)
