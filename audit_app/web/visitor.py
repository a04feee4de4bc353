"""One visitor's attack: at most one at a time, gone with the visitor."""

import threading

from audit_app.live import LiveAttack


class Visitor:
    """Holds the attack of one browser tab. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: LiveAttack | None = None
        self._left = False

    @property
    def live(self) -> LiveAttack | None:
        """The attack under way, or the last one."""
        return self._live

    def begin(self, live: LiveAttack) -> None:
        """Start an attack in place of the one before, which ends."""
        with self._lock:
            before, self._live = self._live, None if self._left else live
        if before is not None:
            before.abandon()
        if not self._left:
            live.start()

    def forget(self) -> None:
        """End the attack and drop its result."""
        with self._lock:
            before, self._live = self._live, None
        if before is not None:
            before.abandon()

    def leave(self) -> None:
        """Forget everything, for good: the tab was closed."""
        self._left = True
        self.forget()
