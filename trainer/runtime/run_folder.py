"""The folder of a run: who it is, what it was asked, how long its stages took."""

import json
import shlex
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from filelock import FileLock, Timeout

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.image_listing import TEST_IMAGES
from hardrank.trainer.config import Config, changed_fields, config_to_json, parse_config

CHECKPOINTS = "checkpoints"
"""Where stages keep their state, in a run's folder."""

_MANIFEST = "run.json"
_DURATIONS = "durations.json"


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
        """Add the seconds that the block takes to those of `stage`, also when it is interrupted by an error."""
        began = monotonic()
        try:
            yield
        finally:
            seconds = self.durations()
            seconds[stage] = round(seconds.get(stage, 0.0) + monotonic() - began, 1)
            write_json(self.folder / _DURATIONS, seconds)

    def durations(self) -> dict[str, float]:
        """Give seconds by stage, of all sittings that ended by themselves."""
        path = self.folder / _DURATIONS
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder during the block; raises `RunError` where one is at work in it.

    The lock goes with the process that holds it, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"another process is at work on {folder}: wait for it, or give --name for a run beside it"
        ) from None
    with lock:
        yield


def open_run(folder: Path, config: Config, *, resume: bool, overwrite: bool) -> Run:
    """Open the folder of a run for `config`.

    A new folder is made, and one without a checkpoint is new too. One with work in it is continued with `resume`
    when it was asked the same (`overwrite` then speaks of bundles alone), or emptied with `overwrite`; raises
    `RunError` otherwise.
    """
    manifest = folder / _MANIFEST
    begun = manifest.exists() and any((folder / CHECKPOINTS).glob("*"))  # a command that failed before leaves nothing
    if begun and (resume or not overwrite):
        if not resume:
            raise RunError(
                f"{folder} holds a run already: --resume continues it, --overwrite starts it anew, --name makes another"
            )
        return read_run(folder, config)
    if manifest.exists():
        _clear(folder)
    run = Run(
        folder=folder,
        run_id=uuid.uuid4().hex,
        command=" ".join(["python", *map(shlex.quote, sys.argv)]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    content = {
        "run_id": run.run_id,
        "command": run.command,
        "created": run.created,
        "config": config_to_json(config),
    }
    write_json(manifest, content)
    return run


def read_run(folder: Path, config: Config) -> Run:
    """Read the folder of a run that was asked `config`; raises `RunError` where it was asked something else."""
    manifest = folder / _MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        former = parse_config(content["config"], source=str(manifest))
        run = Run(
            folder=manifest.parent,
            run_id=content["run_id"],
            command=content["command"],
            created=content["created"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{manifest} is damaged ({error}); --overwrite starts the run anew") from error
    if changed := changed_fields(former, config):
        raise RunError(
            f"{manifest.parent} was started with other values of {', '.join(changed)}: give the same to --resume, "
            "or --name for another run, or --overwrite to start anew"
        )
    return run


def _clear(folder: Path) -> None:
    """Remove what runs write, and nothing else that may lie there."""
    import shutil

    for name in (_MANIFEST, _DURATIONS, TEST_IMAGES):
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, "logs", "evaluation"):
        shutil.rmtree(folder / name, ignore_errors=True)
