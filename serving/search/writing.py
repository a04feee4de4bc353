"""Additions and deletions, in the indexes of all models alike."""

import logging
from collections.abc import Mapping
from typing import Final

from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import DuplicateItemError, NewItem, UnknownItemError

_LOG: Final = logging.getLogger(__name__)


class Writer:
    """Changes the indexes of several models together. One call at a time.

    Each index keeps a change whole, but nothing makes two of them one. So an addition that fails in one is taken back
    in the others. A deletion is not: that would need the item's image. It, and what a crash leaves half done, is
    finished by the same request sent again.
    """

    def __init__(self, indexes: Mapping[str, SearchIndex]) -> None:
        self._indexes = indexes

    def add(self, items: Mapping[str, NewItem]) -> bool:
        """Add one image, given as an item for each index; says whether it is new.

        An image that is there already, with the same bytes, label and metadata, is left as it is. Raises
        `DuplicateItemError` where the id belongs to another image, and what `SearchIndex.add` raises.
        """
        missing = [key for key, item in items.items() if not self._holds(key, item)]
        added: list[str] = []
        try:
            for key in missing:
                self._indexes[key].add([items[key]])
                added.append(key)
        except BaseException:
            self._take_back(added, items)
            raise
        return bool(missing)

    def delete(self, id: str) -> None:
        """Delete an item wherever it is; raises `UnknownItemError` where it is nowhere."""
        holding = [index for index in self._indexes.values() if index.rows([id])]
        if not holding:
            raise UnknownItemError(f"no item has the id {id!r}")
        for index in holding:
            index.delete([id])

    def _holds(self, key: str, item: NewItem) -> bool:
        index = self._indexes[key]
        sources = index.source_hashes([item.id])
        if item.id not in sources:
            return False
        there = index.item(item.id)
        same = (
            sources[item.id] == item.source_sha256
            and there.label == item.label
            and dict(there.metadata) == dict(item.metadata)
        )
        if not same:
            raise DuplicateItemError(
                f"the id {item.id!r} belongs to another image, or to this one with another label or metadata; "
                "delete it first, or choose another id"
            )
        return True

    def _take_back(self, keys: list[str], items: Mapping[str, NewItem]) -> None:
        for key in keys:
            try:
                self._indexes[key].delete([items[key].id])
            except Exception:
                _LOG.exception("the index of %s keeps an item that another index refused; send it again", key)
