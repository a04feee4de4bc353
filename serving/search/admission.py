"""Whether work is taken: never more than may wait, and none before the warm-up or after the end."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from hardrank.models.errors import HardrankError

_MEMORY: Final = 0.9
"""Weight of the past in the running mean of holding times."""
_LONGEST_RETRY_S: Final = 60


class OverloadedError(HardrankError):
    """As much is waiting as may wait."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds after which it is worth another try."""


class NotReadyError(HardrankError):
    """The server is warming up."""


class ShuttingDownError(HardrankError):
    """The server takes no more work, for it is about to end."""

    def __init__(self, message: str = "The server is shutting down; send the request again in a moment.") -> None:
        super().__init__(message)


class Admission:
    """A bounded number of places for work that is admitted and not answered yet. Used from one event loop."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._held_s = 0.0
        self.inside = 0
        """Places taken."""

    @contextmanager
    def enter(self, count: int = 1) -> Iterator[None]:
        """Hold `count` places during the block; raises `OverloadedError` where there are not so many left."""
        if count > self._places:
            raise OverloadedError(
                f"{count} queries at once are more than the {self._places} that may wait; send fewer at a time"
            )
        if self.inside + count > self._places:
            retry = self.retry_after_s
            raise OverloadedError(
                f"{self.inside} requests are waiting, and no more may; try again in {retry} s", retry_after_s=retry
            )
        self.inside += count
        began = perf_counter()
        try:
            yield
        finally:
            self.inside -= count
            self._held_s = _MEMORY * self._held_s + (1 - _MEMORY) * (perf_counter() - began)

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until places should be free: as long as they were held of late."""
        return min(max(1, math.ceil(self._held_s)), _LONGEST_RETRY_S)
