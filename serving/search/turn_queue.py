"""Entries that wait in turn by caller: after one of a caller's, the next is another caller's."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class TurnQueue(Generic[Entry]):
    """A queue for each caller that has entries. Not thread-safe. Entries are compared by identity or `__eq__`."""

    def __init__(self) -> None:
        self._by_caller: OrderedDict[str, deque[Entry]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest(self) -> Iterator[Entry]:
        """The first entry of each caller."""
        return (entries[0] for entries in self._by_caller.values())

    @property
    def fair(self) -> int:
        """How many entries to take at once, so that a caller with few does not wait for the many of another."""
        return min(map(len, self._by_caller.values()), default=0) * len(self._by_caller)

    def add(self, caller: str, entry: Entry) -> None:
        """Append an entry to those of a caller."""
        self._by_caller.setdefault(caller, deque()).append(entry)
        self._count += 1

    def take(self, may: Callable[[str], bool] = lambda _: True) -> tuple[str, Entry] | None:
        """Remove the first entry of the caller whose turn it is, who then comes last.

        Callers for whom `may` is false keep their turns. Returns None if there is no other.
        """
        caller = next(filter(may, self._by_caller), None)
        if caller is None:
            return None
        entry = self._by_caller[caller].popleft()
        self._count -= 1
        self._by_caller.move_to_end(caller)
        self._forget_if_empty(caller)
        return caller, entry

    def remove(self, caller: str, entry: Entry) -> bool:
        """Remove an entry of a caller, who keeps the turn if others are left; returns whether it still waited."""
        entries = self._by_caller.get(caller)
        if entries is None or entry not in entries:
            return False
        entries.remove(entry)
        self._count -= 1
        self._forget_if_empty(caller)
        return True

    def _forget_if_empty(self, caller: str) -> None:
        if not self._by_caller[caller]:
            del self._by_caller[caller]
