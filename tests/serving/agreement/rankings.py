"""Rankings for tests."""

from collections.abc import Sequence

from hardrank.serving.agreement.rbo import Ranking


def untied(ids: Sequence[str]) -> Ranking:
    """Return the ranking of `ids`, best first, without ties."""
    return Ranking(ids=tuple(ids), scores=tuple(-float(rank) for rank in range(len(ids))))
