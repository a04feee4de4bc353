"""How many attacks run at once: others wait in the order of their arrival."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_LOOK_AGAIN_S: Final = 0.2
"""How often who waits looks whether it was cancelled."""


class AttackQueue:
    """Lets `limit` through at once, first come, first served. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._inside = 0

    @property
    def inside(self) -> int:
        """How many are through."""
        return self._inside

    def ahead(self, ticket: object) -> int:
        """How many have to come out before this one goes in; 0 for who does not wait."""
        with self._changed:
            if ticket not in self._waiting:
                return 0
            return max(0, self._inside + list(self._waiting).index(ticket) + 1 - self.limit)

    @contextmanager
    def passing(self, ticket: object, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a place and hold it for the block; gives False at once when `cancelled` while waiting."""
        entered = self._enter(ticket, cancelled)
        try:
            yield entered
        finally:
            if entered:
                self._leave()

    def _enter(self, ticket: object, cancelled: Callable[[], bool]) -> bool:
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not cancelled():
                    if self._inside < self.limit and self._waiting[0] is ticket:
                        self._inside += 1
                        return True
                    self._changed.wait(_LOOK_AGAIN_S)
                return False
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
