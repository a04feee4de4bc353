"""A cache whose values are computed in background threads and shared by all visitors."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hardrank.audit_app.errors import INTERNAL_ERROR
from hardrank.models.errors import HardrankError
from hardrank.models.progress import OnProgress, StageProgress

_logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class CacheEntry(Generic[T]):
    """The state of a computation; immutable."""

    progress: StageProgress | None = None
    """Its progress, if it is running."""
    value: T | None = None
    """Its result, once it is done."""
    error: str = ""
    """Why it failed; empty otherwise."""

    @property
    def done(self) -> bool:
        """Whether it has finished or failed."""
        return self.value is not None or bool(self.error)


class BackgroundCache(Generic[T]):
    """Keeps the `size` values requested last. Thread-safe.

    A failure is reported once; the next request computes the value again.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, CacheEntry[T]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[OnProgress], T]) -> CacheEntry[T]:
        """Return the state of `key`; start `compute` in a thread if nobody has yet."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                entry = self._entries[key]
                if entry.error:
                    del self._entries[key]
                return entry
            self._entries[key] = CacheEntry()
            self._evict()
        threading.Thread(target=self._compute, args=(key, compute), name="background cache", daemon=True).start()
        return CacheEntry()

    def _compute(self, key: Hashable, compute: Callable[[OnProgress], T]) -> None:
        try:
            entry = CacheEntry(value=compute(lambda progress: self._put(key, CacheEntry(progress=progress))))
        except HardrankError as error:
            entry = CacheEntry(error=str(error))
        except Exception:
            _logger.exception("a background computation failed")
            entry = CacheEntry(error=INTERNAL_ERROR)
        self._put(key, entry)

    def _put(self, key: Hashable, entry: CacheEntry[T]) -> None:
        with self._lock:
            self._entries[key] = entry

    def _evict(self) -> None:
        """Drop the oldest finished entries."""
        done = [key for key, entry in self._entries.items() if entry.done]
        for key in done[: max(0, len(self._entries) - self._size)]:
            del self._entries[key]
