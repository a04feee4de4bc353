"""What a search answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardrank.serving.agreement.calibration import Suspicion
from hardrank.serving.store.items import Match


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Milliseconds of each stage of one query."""

    decode_ms: float = 0.0
    """From the bytes of the file to the network's input, waiting for a decoder included; 0 for a search by id."""
    queue_ms: float = 0.0
    """Waiting for a batch."""
    embed_ms: float = 0.0
    """The network, on the whole batch."""
    search_ms: float = 0.0
    """The index: waiting for it, and searching it."""


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """What one model finds."""

    matches: Sequence[Match]
    """The best first; fewer than k where there are not so many."""
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """What all models that were asked find."""

    by_model: Mapping[str, ModelAnswer]
    suspicion: Suspicion | None = None
    """How much two models disagree about an image, against what is usual; None where that was not asked, only one
    model was, or what is usual is not known (yet)."""
