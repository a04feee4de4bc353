"""A folder for the uploads of one server: deleted at its end, or by the next server if it was killed.

The living server holds a lock on a file in its folder, which the system releases however the server ends.
"""

import atexit
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "hardrank-page-"
_LOCK: Final = ".lock"


def make_upload_folder() -> Path:
    """Make a folder that only this user can read, and delete the folders of servers that were killed."""
    if sys.platform == "win32":  # there are no such locks
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    else:
        parent = Path(tempfile.gettempdir())
        for path in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # of another user, or of a living server, or not such a folder
                _delete_if_dead(path)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with suppress(OSError):  # a system of files without locks; then nobody takes the folder for dead
            _lock(folder)
    atexit.register(_delete, folder)
    return folder


def _delete(folder: Path) -> None:
    """Delete a folder of files, the lock last: without it, nobody would delete the rest."""
    with suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink()
        folder.rmdir()


if sys.platform != "win32":
    import fcntl  # Unix only

    def _lock(folder: Path) -> None:
        """Lock a folder until this process ends."""
        # The lock gets its name when it is held, so that no other server finds it free.
        made = folder / f"{_LOCK}-made"
        fcntl.flock(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), fcntl.LOCK_EX)
        made.rename(folder / _LOCK)

    def _delete_if_dead(path: Path) -> None:
        """Delete a folder of this user whose lock is free; raises `OSError` if it is not such a folder.

        Everything is reached through the opened folder, and no link is followed: in a place where others can write,
        a path may lead elsewhere.
        """
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            status = os.fstat(folder)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return
            lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in sorted(os.listdir(folder), key=_LOCK.__eq__):  # noqa: PTH208 - a Path takes no descriptor
                    os.unlink(name, dir_fd=folder)
                path.rmdir()
            finally:
                os.close(lock)
        finally:
            os.close(folder)
