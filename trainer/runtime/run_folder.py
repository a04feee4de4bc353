"""The folder of a run: its identity and configuration, checkpoints, logs and durations."""

import json
import logging
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from filelock import FileLock, Timeout

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.image_listing import TEST_IMAGES

_logger = logging.getLogger(__name__)

CHECKPOINTS: Final = "checkpoints"
LOGS: Final = "logs"
EVALUATION: Final = "evaluation"
"""Folders within a run's folder."""

PREFLIGHT: Final = "preflight.json"
"""Estimates of the checks before training, within a run's folder."""

_MANIFEST: Final = "run.json"
_DURATIONS: Final = "durations.json"

FindChanges = Callable[[Any], list[str]]
"""A recorded configuration, as JSON values → the names of the fields that have changed since."""


class RunError(HardrankError):
    """A run folder that belongs to another run, or is damaged."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An open run folder."""

    folder: Path
    run_id: str
    command: str
    created: str

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of `stage`, also if it ends with an error."""
        began = monotonic()
        try:
            yield
        finally:
            seconds = self.durations()
            seconds[stage] = round(seconds.get(stage, 0.0) + monotonic() - began, 1)
            write_json(self.folder / _DURATIONS, seconds)

    def durations(self) -> dict[str, float]:
        """Return the seconds by stage; time before a kill is not counted."""
        path = self.folder / _DURATIONS
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other processes during the block.

    The lock is released when the process ends, however it ends.

    Raises:
        RunError: another process has locked the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"another process is using {folder}: wait for it, or choose another --name") from None
    with lock:
        yield


def open_run(
    folder: Path, config: Mapping[str, Any], find_changes: FindChanges, *, resume: bool, overwrite: bool
) -> Run:
    """Create the folder of a run, or open it to resume the run.

    A folder without a checkpoint counts as new. With `resume`, `overwrite` concerns the bundles only.

    Args:
        folder: The run's folder.
        config: The configuration, as JSON values.
        find_changes: Compares the recorded configuration with the current one.
        resume: Continue a run that has a checkpoint.
        overwrite: Delete a run that has a checkpoint.

    Raises:
        RunError: the folder holds a run that is neither to be resumed nor overwritten, or one with another
            configuration.
    """
    manifest = folder / _MANIFEST
    started = manifest.exists() and any((folder / CHECKPOINTS).glob("*"))  # a command that failed early leaves none
    if started and resume:
        return read_run(folder, find_changes)
    if resume:
        _logger.warning("nothing to resume: %s has no checkpoint, so the run starts from the beginning", folder)
    if started and not overwrite:
        raise RunError(
            f"{folder} already holds a run: use --resume to continue it, --overwrite to start again, or another --name"
        )
    if manifest.exists():
        _clear(folder)
    run = Run(
        folder=folder,
        run_id=uuid.uuid4().hex,
        command=" ".join(["python", *map(shlex.quote, sys.argv)]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    content = {"run_id": run.run_id, "command": run.command, "created": run.created, "config": config}
    write_json(manifest, content)
    return run


def read_run(folder: Path, find_changes: FindChanges) -> Run:
    """Read the folder of a run; raises `RunError` if its configuration differs from the current one."""
    manifest = folder / _MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        changed = find_changes(content["config"])
        run = Run(
            folder=folder,
            run_id=content["run_id"],
            command=content["command"],
            created=content["created"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{manifest} is damaged ({error}); use --overwrite to start again") from error
    if changed:
        raise RunError(
            f"{folder} was started with other values of {', '.join(changed)}: --resume needs the same ones; use "
            "--overwrite to start again, or another --name"
        )
    return run


def _clear(folder: Path) -> None:
    """Delete what runs write, and no other files."""
    for name in (_MANIFEST, _DURATIONS, PREFLIGHT, TEST_IMAGES):
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, LOGS, EVALUATION):
        shutil.rmtree(folder / name, ignore_errors=True)
