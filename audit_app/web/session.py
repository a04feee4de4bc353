"""What belongs to one visitor: a selection, one attack at a time and uploaded files, until the visitor leaves."""

import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.live.attack import LiveAttack
from hardrank.audit_app.subjects.subject import SubjectOptions

_CHECK_EVERY_S: Final = 1.0
CHECKS_BEFORE_LEAVING: Final = 15
"""Failed checks before the attack is dropped, so that a page that loses its connection or is reloaded keeps it."""
_CLOSING_S: Final = 1.0
"""How long the connection of a page may take to close after its reload."""
_CLOSING_CHECKS: Final = 10


@dataclass(frozen=True, kw_only=True)
class GallerySelection:
    """Models, the gallery that they rank, and how the models are loaded."""

    models: tuple[str, ...]
    gallery: GallerySource
    loading: SubjectOptions = field(default_factory=SubjectOptions)


def safe_name(name: str) -> str:
    """Return the last part of a file's name without special characters, as uploaded files are kept."""
    return re.sub(r"[^\w.+-]+", "-", Path(name).name).lstrip(".") or "file"


class VisitorSession:
    """Holds the attack and the uploaded files of one browser tab. Thread-safe.

    `connected` returns whether the tab is still open; Streamlit itself ends a session only minutes later.
    """

    def __init__(self, connected: Callable[[], bool] = lambda: True, *, check_every_s: float = _CHECK_EVERY_S) -> None:
        self._connected = connected
        self._check_every_s = check_every_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._live: LiveAttack | None = None
        self._standard: LiveAttack | None = None
        self._selection: GallerySelection | None = None
        self._closed = False
        self.recognizable = False
        """Whether the tab is found again after a reload; set by `VisitorRegistry.identify`."""
        self._files = tempfile.TemporaryDirectory(prefix="hardrank-visitor-")

    @property
    def live(self) -> LiveAttack | None:
        """The running attack, or the last one."""
        return self._live

    @property
    def standard(self) -> LiveAttack | None:
        """The attack that the present one is stronger than; None unless it was started as the stronger one."""
        return self._standard

    @property
    def selection(self) -> GallerySelection | None:
        """The models and the gallery of the attack."""
        return self._selection

    def start(
        self, live: LiveAttack, *, selection: GallerySelection | None = None, standard: LiveAttack | None = None
    ) -> None:
        """Start an attack; abandon the previous one.

        Args:
            live: The attack.
            selection: Its models and gallery.
            standard: A finished attack to compare it with.
        """
        with self._lock:
            previous, self._live = self._live, None if self._closed else live
            self._standard, self._selection = standard, selection
            self._changed.notify_all()
        if previous is not None:
            previous.abandon()
        if not self._closed:
            live.start()
            self._watch(live)

    def take_over(self, previous: "VisitorSession") -> bool:
        """Take the attack of a session whose tab was reloaded; return whether there was one.

        The attack of a tab that is still open stays where it is.
        """
        for _ in range(_CLOSING_CHECKS):
            if not previous._connected():
                break
            time.sleep(_CLOSING_S / _CLOSING_CHECKS)
        else:
            return False
        with previous._lock:
            live, previous._live = previous._live, None
            previous._changed.notify_all()
        if live is None:
            return False
        with self._lock:
            taken = self._live is None and not self._closed
            if taken:
                self._live, self._standard, self._selection = live, previous._standard, previous._selection
        if taken:
            self._watch(live)
        else:
            live.abandon()
        return taken

    def _watch(self, live: LiveAttack) -> None:
        threading.Thread(target=self._drop_when_gone, args=(live,), name="session", daemon=True).start()

    def drop(self) -> None:
        """Abandon the attack and drop its result."""
        with self._lock:
            previous, self._live = self._live, None
            self._standard = self._selection = None
            self._changed.notify_all()
        if previous is not None:
            previous.abandon()

    def _drop_when_gone(self, live: LiveAttack) -> None:
        """Drop an attack, running or done, once the visitor has been disconnected for a while."""
        failed = 0
        while failed < CHECKS_BEFORE_LEAVING:
            with self._lock:
                self._changed.wait(self._check_every_s)
                if self._live is not live:
                    return
            failed = 0 if self._connected() else failed + 1
        self.drop()

    def keep_files(self, files: Mapping[str, bytes]) -> Path:
        """Write uploaded files that belong together into one folder, under their own names; return the folder."""
        whole = hashlib.sha256()
        for name, data in files.items():
            whole.update(f"{name}\0{len(data)}\0".encode() + data)
        folder = Path(self._files.name) / whole.hexdigest()[:16]
        if not folder.exists():
            with tempfile.TemporaryDirectory(
                dir=self._files.name
            ) as unfinished:  # a failed write leaves no part of a model
                whole_folder = Path(unfinished) / folder.name
                whole_folder.mkdir()
                for name, data in files.items():
                    (whole_folder / safe_name(name)).write_bytes(data)
                whole_folder.rename(folder)
        return folder

    def close(self) -> None:
        """Drop everything for good: the tab was closed, or reloaded.

        A tab that can be recognized gets its attack back for as long as a lost connection would keep it.
        """
        self._closed = True
        if not self.recognizable:
            self.drop()
        self._files.cleanup()


class VisitorRegistry:
    """Finds the session that a browser tab had before a reload. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_token: WeakValueDictionary[str, VisitorSession] = WeakValueDictionary()

    def identify(self, token: str, session: VisitorSession) -> bool:
        """Say that the tab `token` has `session` now; return whether it got the attack of its previous session."""
        with self._lock:
            previous = self._by_token.get(token)
        taken = previous is not None and previous is not session and session.take_over(previous)
        session.recognizable = True
        with self._lock:
            self._by_token[token] = session
        return taken
