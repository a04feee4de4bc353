"""Example items and thumbnails from the indexes. All functions read from disk."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import Item, UnknownItemError

Value = TypeVar("Value")

_EXAMPLE_COUNT: Final = 8


def examples(index: SearchIndex) -> list[Item]:
    """Return evenly spaced items, the same ones as long as the index does not change."""
    count = min(_EXAMPLE_COUNT, index.size)
    positions = [int((number + 0.5) * index.size / count) for number in range(count)]
    ids = [id for position in positions for id in index.ids(start=position, count=1)]
    return [item for id in ids if (item := _unless_deleted(index.item, id)) is not None]


def thumbnails(indexes: Sequence[SearchIndex], ids: Iterable[str]) -> dict[str, bytes]:
    """Return the thumbnails by item id, each from the first index that has one. Items without one are omitted."""
    found = {id: _thumbnail(indexes, id) for id in set(ids)}
    return {id: thumbnail for id, thumbnail in found.items() if thumbnail}


def _thumbnail(indexes: Sequence[SearchIndex], id: str) -> bytes | None:
    return next((png for index in indexes if (png := _unless_deleted(index.thumbnail, id))), None)


def _unless_deleted(read: Callable[[str], Value], id: str) -> Value | None:
    """Read something of an item; None if it was deleted meanwhile."""
    try:
        return read(id)
    except UnknownItemError:
        return None
