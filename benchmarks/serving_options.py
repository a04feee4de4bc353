"""Options of the benchmarks of serving, which its sections share."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from benchmarks.command import BenchmarkOptions


class Section(StrEnum):
    """A part of the benchmark that runs alone too."""

    QUERY = "query"
    CLIENTS = "clients"
    SOAK = "soak"


@dataclass(frozen=True, kw_only=True)
class ServingOptions(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"size": 2000, "queries": 3, "seconds": 3.0, "minutes": 0.1}

    sections: Annotated[tuple[Section, ...], tyro.conf.Positional] = ()
    """Which to run; all by default."""
    size: int = 100_000
    """Items of the gallery."""
    queries: int = 200
    """query: how many."""
    seconds: float = 20
    """clients: seconds of each load."""
    minutes: float = 10
    """soak: minutes."""
    folder: Path | None = None
    """Keep what is served here, for another run; by default it is temporary."""
