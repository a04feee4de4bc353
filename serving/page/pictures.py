"""What the page shows of the galleries themselves; all of it waits for the disk."""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import Item, UnknownItemError

Value = TypeVar("Value")

_EXAMPLES: Final = 8


def examples(index: SearchIndex) -> list[Item]:
    """Give items from all over a gallery, the same as long as it does not change."""
    count = min(_EXAMPLES, index.size)
    places = [int((number + 0.5) * index.size / count) for number in range(count)]
    ids = [id for place in places for id in index.ids(start=place, count=1)]
    return [item for id in ids if (item := _there(index.item, id)) is not None]


def thumbnails(indexes: Iterable[SearchIndex], items: Iterable[Item]) -> dict[str, bytes]:
    """Give the thumbnail of each item by its id, from the first index that has it; items without one are left out."""
    searched = list(indexes)
    found = {id: _thumbnail(searched, id) for id in {item.id for item in items}}
    return {id: thumbnail for id, thumbnail in found.items() if thumbnail}


def _thumbnail(indexes: Iterable[SearchIndex], id: str) -> bytes | None:
    return next((png for index in indexes if (png := _there(index.thumbnail, id))), None)


def _there(read: Callable[[str], Value], id: str) -> Value | None:
    """Read what belongs to an item, None where it has just been deleted."""
    try:
        return read(id)
    except UnknownItemError:
        return None
