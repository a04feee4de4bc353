"""A limit on how many attacks run at once; others wait in order of arrival."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_POLL_S: Final = 0.2
"""How often a waiting attack checks whether it was cancelled."""


class AttackQueue:
    """Gives places to at most `limit` attacks at once, first come, first served. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._running = 0

    def ahead(self, ticket: object) -> int:
        """How many attacks must end before the one with this ticket begins; 0 if it does not wait."""
        with self._changed:
            if ticket not in self._waiting:
                return 0
            return max(0, self._running + list(self._waiting).index(ticket) + 1 - self.limit)

    @contextmanager
    def place(self, ticket: object, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a place and hold it during the block; yields False without a place if `cancelled` while waiting."""
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
                    if self._running < self.limit and self._waiting[0] is ticket:
                        self._running += 1
                        return True
                    self._changed.wait(_POLL_S)
                return False
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
