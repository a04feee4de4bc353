"""The folder of an audit: its lock, and the names of the files of each model."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery

_LOCK: Final = ".lock"


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Lock a folder; raises `AuditError` if another audit is running in it, or it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK, blocking=False)
        lock.acquire()
    except Timeout:
        raise AuditError(f"another audit is running in {out}; wait until it ends, or choose another folder") from None
    except OSError as error:
        raise AuditError(f"{out} cannot be written ({error.strerror or error}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def journal_name(embedded: EmbeddedGallery) -> str:
    """Name of the journal's folder for a model and gallery; another model with the same name gets another."""
    subject = embedded.subject
    identity = f"{subject.sha256}{subject.preprocessing}{embedded.gallery.digest()}"
    return f"{slug(subject.name)}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def slug(name: str) -> str:
    """Turn a model's name into part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"
