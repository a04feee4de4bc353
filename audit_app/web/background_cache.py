"""Things that are slow to make, made once in a thread of their own and shared by whoever asks."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hardrank.models.errors import HardrankError
from hardrank.models.progress import OnProgress, StageProgress

_logger = logging.getLogger(__name__)

T = TypeVar("T")

UNFORESEEN = "this failed for a reason that is not yours to mend; the log of the app has the details"
"""What a visitor is told of a failure that nobody foresaw."""


@dataclass(frozen=True)
class Making(Generic[T]):
    """How far something has come; never changes."""

    progress: StageProgress | None = None
    """The stage under way."""
    made: T | None = None
    """It, once it is there."""
    problem: str = ""
    """Why it cannot be."""

    @property
    def over(self) -> bool:
        """Whether it is there, or never will be."""
        return self.made is not None or bool(self.problem)


class Shelf(Generic[T]):
    """Keeps the `size` things asked for last; others are forgotten. Safe to use from several threads.

    What failed is made anew when it is asked for again, once its failure was told.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._things: OrderedDict[Hashable, Making[T]] = OrderedDict()

    def ask(self, key: Hashable, make: Callable[[OnProgress], T]) -> Making[T]:
        """See how far `key` has come; begins to make it where nobody did."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                found = self._things[key]
                if found.problem:
                    del self._things[key]
                return found
            self._things[key] = Making()
            self._forget()
        threading.Thread(target=self._make, args=(key, make), name="shelf", daemon=True).start()
        return Making()

    def _make(self, key: Hashable, make: Callable[[OnProgress], T]) -> None:
        try:
            made = Making(made=make(lambda progress: self._put(key, Making(progress=progress))))
        except HardrankError as error:
            made = Making(problem=str(error))
        except Exception:
            _logger.exception("something on the shelf could not be made")
            made = Making(problem=UNFORESEEN)
        self._put(key, made)

    def _put(self, key: Hashable, making: Making[T]) -> None:
        with self._lock:
            if key in self._things:  # else it was forgotten meanwhile
                self._things[key] = making

    def _forget(self) -> None:
        """Drop the oldest things that are finished."""
        over = [key for key, making in self._things.items() if making.over]
        for key in over[: max(0, len(self._things) - self._size)]:
            del self._things[key]
