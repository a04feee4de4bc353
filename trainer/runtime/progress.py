"""Where long work stands, for who shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a stage stands, for who shows it."""

    stage: str
    done: int
    total: int
    measures: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]
