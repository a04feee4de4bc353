"""What is asked of the service."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageQuery:
    """A search by an image."""

    data: bytes
    """The file's own bytes."""


@dataclass(frozen=True, kw_only=True)
class IdQuery:
    """A search by an item, which is itself left out of the answer."""

    id: str


Query = ImageQuery | IdQuery


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What to search for."""

    k: int | None = None
    """Results for each model, from 1 to the size of its index; None: 10, or all where there are fewer."""
    models: tuple[str, ...] | None = None
    """Keys of the models to ask; None: all."""
    label: str | None = None
    """Only items with this label."""
    suspicion: bool = True
    """Whether to judge how much the two models disagree; possible only where both are asked."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options that fit what is served."""

    keys: tuple[str, ...]
    """Of the models to ask."""
    k: int
    label: str | None
    hint: bool
    """Whether to judge how much the two models disagree."""
