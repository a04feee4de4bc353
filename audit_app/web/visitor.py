"""One visitor's attack: at most one at a time, gone with the visitor."""

import hashlib
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hardrank.audit_app.audit.runner import slug
from hardrank.audit_app.live.attack import LiveAttack

_LOOK_AGAIN_S: Final = 1.0
PATIENCE: Final = 5
"""Looks at an empty place before the attack is dropped: a page that lost its connection for a moment comes back."""


class Visitor:
    """Holds the attack of one browser tab. Safe to use from several threads.

    `present` says whether the tab is still open; Streamlit itself forgets who left only minutes later.
    """

    def __init__(self, present: Callable[[], bool] = lambda: True, *, look_again_s: float = _LOOK_AGAIN_S) -> None:
        self._present = present
        self._look_again_s = look_again_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._live: LiveAttack | None = None
        self._left = False
        self._files = tempfile.TemporaryDirectory(prefix="hardrank-visitor-")

    @property
    def live(self) -> LiveAttack | None:
        """The attack under way, or the last one."""
        return self._live

    def begin(self, live: LiveAttack) -> None:
        """Start an attack in place of the one before, which ends."""
        with self._lock:
            before, self._live = self._live, None if self._left else live
            self._changed.notify_all()
        if before is not None:
            before.abandon()
        if not self._left:
            live.start()
            threading.Thread(target=self._stay_with, args=(live,), name="visitor", daemon=True).start()

    def forget(self) -> None:
        """End the attack and drop its result."""
        with self._lock:
            before, self._live = self._live, None
            self._changed.notify_all()
        if before is not None:
            before.abandon()

    def _stay_with(self, live: LiveAttack) -> None:
        """Drop an attack, under way or done, once the visitor has been away for a while."""
        absent = 0
        while absent < PATIENCE:
            with self._lock:
                self._changed.wait(self._look_again_s)
                if self._live is not live:
                    return
            absent = 0 if self._present() else absent + 1
        self.forget()

    def keep_file(self, name: str, data: bytes) -> Path:
        """Put an uploaded file where it can be read, until the visitor leaves; the same bytes are kept once."""
        folder = Path(self._files.name) / hashlib.sha256(data).hexdigest()[:16]
        path = folder / (slug(Path(name).stem) + Path(name).suffix.lower())
        if not path.exists():
            folder.mkdir(exist_ok=True)
            path.write_bytes(data)
        return path

    def leave(self) -> None:
        """Forget everything, for good: the tab was closed."""
        self._left = True
        self.forget()
        self._files.cleanup()
