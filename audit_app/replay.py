"""Replay a recorded live attack, and check that it gives the same images and rankings.

The audit app offers the record of each attack as a JSON file.

Examples:
  Replay an attack on this machine:
    {command} attack.json
  The models and the gallery have moved; name the models in the record's order:
    {command} attack.json --models zoo/demo-benign zoo/demo-robust --gallery runs/demo
  Save the adversarial images as PNG:
    {command} attack.json --out replayed

Exit status: 0 the same adversarial images and rankings, 1 other ones, 2 an invalid record or argument, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import tyro

from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.live.record import LARGEST_RECORD, ReplayError, read_record
from hardrank.audit_app.live.replay import Replayed, replay
from hardrank.models.command_errors import report_errors
from hardrank.models.files import write_bytes
from hardrank.models.home import typed

_RECORDED: Final = "(default: as recorded)"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    file: Annotated[Path, tyro.conf.Positional]
    """The JSON file of the attack."""
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint=_RECORDED)] = ()
    """The models in the record's order, if they have moved."""
    gallery: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PLACE [PLACE ...]", help_behavior_hint=_RECORDED)] = ()
    """The gallery, if it has moved: an index (or one for each model), a run, a bundle, a folder of images or a CSV."""
    out: Path | None = None
    """Folder for the adversarial PNGs."""


@report_errors(interrupted="interrupted")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 identical, 1 different, 2 error, 130 interrupted."""
    command = tyro.cli(
        Command,
        prog=typed("replay"),
        description=(__doc__ or "").format(command=typed("replay")),
        args=arguments,
    )
    replayed = _replay(command)
    for name, found in replayed.result.subjects.items():
        before, after = list(found.outcome.ranks_before), list(found.outcome.ranks_after)
        print(f"{name}: ranks {before} → {after}, pixels {found.prepared_sha256}")
    print("\n".join(replayed.differences) or "the same images and rankings as recorded")
    return 1 if replayed.differences else 0


def _replay(command: Command) -> Replayed:
    gallery = GallerySource.at(*command.gallery) if command.gallery else None
    replayed = replay(read_record(_read(command.file)), models=command.models, gallery=gallery)
    if command.out is not None:
        for name, found in replayed.result.subjects.items():
            write_bytes(command.out / f"{name}.png", found.png)
    return replayed


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_RECORD + 1)
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
