"""One visitor's attack: at most one at a time, gone with the visitor."""

import hashlib
import tempfile
import threading
from pathlib import Path

from audit_app.audit import slug
from audit_app.live import LiveAttack


class Visitor:
    """Holds the attack of one browser tab. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
