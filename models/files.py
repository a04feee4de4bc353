"""Atomic files and folders: readers see either the former content or the new one, whatever fails. And file hashes."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

_ABANDONED_AFTER: Final = 86_400.0
"""Seconds. Unfinished folders older than this belong to killed processes."""
_ATTEMPTS: Final = 5


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write a file through a temporary name beside it.

    Args:
        path: The file to write or replace. Missing parent folders are created.

    Yields:
        A temporary path to write to. It is fsynced and renamed to `path` when the block ends without an error, and
        removed otherwise. A replaced file keeps its permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished_name(path)
    try:
        yield unfinished
        sync(unfinished)
        with suppress(FileNotFoundError):
            shutil.copymode(path, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a binary file like `atomic_path`, for libraries that take an open file rather than a path."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as stream:
        yield stream


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder through a temporary name beside it.

    Args:
        path: The folder to write or replace as a whole. Missing parent folders are created.

    Yields:
        An empty folder. It replaces `path` (see `replace_folder`) when the block ends without an error, and is removed
        otherwise.
    """
    with unfinished_folder(path) as unfinished:
        yield unfinished
        replace_folder(unfinished, path)


@contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, to pass to `replace_folder`; it is removed afterwards."""
    path = _followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(path)
    _remove_abandoned(path)
    unfinished = _unfinished_name(path)
    unfinished.mkdir()
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder `new` to `target`, replacing what is there.

    No file system call replaces a folder that is not empty, so the former one steps aside as `.NAME.former` and is
    removed last. If the second rename fails, it is renamed back at once; if the process is killed in between,
    `restore_folder` does so later.

    Args:
        new: A complete folder on the same file system as `target`.
        target: The final name. A symbolic link is followed.

    Raises:
        OSError: A rename failed. `target` is as it was, or `.NAME.former` holds it.
    """
    target = _followed(target)
    former = _former_name(target)
    for path in new.rglob("*"):
        if path.is_file():
            sync(path)
    for attempt in range(_ATTEMPTS):
        try:
            _swap(new, target, former)
            break
        except OSError as error:
            # Another process put a folder there between the two renames: replace that one.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt + 1 == _ATTEMPTS:
                raise
    sync(target.parent)
    shutil.rmtree(former, ignore_errors=True)


def restore_folder(target: Path) -> bool:
    """Rename `.NAME.former` back to `target` where a killed `replace_folder` left `target` missing.

    Returns:
        Whether a folder was restored.
    """
    target = _followed(target)
    if target.exists():
        return False
    try:
        _former_name(target).rename(target)
    except OSError:
        return False
    return True


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(data)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def expand_user(path: str | Path) -> Path:
    """Expand a leading `~` or `~user`; where there is no such user, `~` is an ordinary character.

    Unlike `Path.expanduser`, this never raises `RuntimeError`.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _swap(new: Path, target: Path, former: Path) -> None:
    try:
        if target.is_dir():
            shutil.rmtree(former, ignore_errors=True)
            target.rename(former)
        new.rename(target)
    except BaseException:
        restore_folder(target)
        raise


def _unfinished_name(path: Path) -> Path:
    """A name that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.unfinished")


def _former_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def _followed(path: Path) -> Path:
    """The folder behind a symbolic link, which is replaced rather than the link."""
    return path.resolve() if path.is_symlink() else path


def _remove_abandoned(path: Path) -> None:
    for left in path.parent.glob(f".{_escaped(path.name)}.*.unfinished"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(left, ignore_errors=True)


def _escaped(name: str) -> str:
    """A name as a glob pattern that matches only it."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
