"""Queries and answers of the search service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.serving.agreement.calibration import Disagreement
from hardrank.serving.store.items import Match


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageQuery:
    """A search by image."""

    data: bytes
    """The bytes of an image file."""


@dataclass(frozen=True, kw_only=True)
class IdQuery:
    """A search by an indexed item, which is left out of its own results."""

    id: str


Query = ImageQuery | IdQuery

_FIELDS_BYTES: Final = 128
"""Of a match besides id, label and metadata."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search, as the caller gives them."""

    k: int | None = None
    """Results per model, from 1 to the size of its index; None: 10, or all items of a smaller index."""
    models: tuple[str, ...] | None = None
    """Keys of the models to search with; None: all."""
    label: str | None = None
    """Return only items with this label."""
    compare_models: bool = True
    """Whether to measure how much the two compared models disagree. It has no effect unless both are searched."""


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions:
    """Options after they were checked against the served models, with every default filled in."""

    models: tuple[str, ...]
    """Keys of the models to search with."""
    k: int
    label: str | None
    compare_models: bool
    """Whether to measure how much the two compared models disagree."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Milliseconds of each stage of one query."""

    decode_ms: float = 0.0
    """From the bytes of the file to the network's input, including the wait for a decoder; 0 for a search by id."""
    queue_ms: float = 0.0
    """Wait for a batch."""
    embed_ms: float = 0.0
    """The network, on the whole batch."""
    search_ms: float = 0.0
    """The index: wait and search."""


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """Results of one model."""

    matches: Sequence[Match]
    """Best first; fewer than k if the index has fewer."""
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """Results of all models that were searched."""

    by_model: Mapping[str, ModelAnswer]
    disagreement: Disagreement | None = None
    """How much the two compared models disagree about the query. None if that was not requested, if only one of them
    was searched, or while the usual agreement is unknown."""

    @property
    def size(self) -> int:
        """Bytes of the answer as JSON, about."""
        items = [match.item for answer in self.by_model.values() for match in answer.matches]
        return sum(len(item.metadata_json) + len(item.id) + len(item.label or "") + _FIELDS_BYTES for item in items)


@dataclass(frozen=True)
class IdPage:
    """Ids in order of addition."""

    ids: list[str]
    last_row: int | None
    """Row of the last item; None without items, or if it was deleted meanwhile."""
