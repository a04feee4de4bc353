"""Make a leaderboard, one static page, from a folder of entries.

`hardrank audit --entry ABOUT.json` writes an entry, NAME.entry.json, for each model. Put entries into one folder; each
table of the page compares those with the same gallery and budget. The page needs no network. It states the admission
rules; entries that break one are refused, with the reason. The card of a bundle that was trained with
--evaluation.strong-images makes an entry without another audit.

Examples:
  Write entries/leaderboard.html:
    {command} entries
  First add an entry of a bundle, from its card:
    {command} entries --bundle models/zoo/caltech101-robust --about about.json
  Write the page elsewhere:
    {command} entries --out site/index.html

Exit status: 0 all entries admitted, 1 some refused (the page shows the others), 2 invalid arguments, no entries,
130 interrupted.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console
from rich.markup import escape

from hardrank.audit_app.entries.entry import EntryError, read_about
from hardrank.audit_app.entries.making import make_entry_of_card
from hardrank.audit_app.entries.page import Leaderboard, read_leaderboard, render_leaderboard
from hardrank.audit_app.gallery.image_gallery import from_run
from hardrank.audit_app.results.schema import ENTRY_SUFFIX
from hardrank.models.bundle import load_card
from hardrank.models.command_errors import report_errors
from hardrank.models.files import write_text
from hardrank.models.home import typed

PAGE: Final = "leaderboard.html"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the entries, *.json."""
    bundle: Annotated[Path | None, tyro.conf.arg(metavar="BUNDLE", help_behavior_hint="(default: none)")] = None
    """Bundle whose card becomes an entry, NAME.entry.json in DIR."""
    about: Annotated[Path | None, tyro.conf.arg(metavar="JSON", help_behavior_hint="(default: none)")] = None
    """What the authors of the bundle say about it; see docs/leaderboard.md."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: as in training)")] = (
        None
    )
    """Folder of the bundle's images, if they have moved since training."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="HTML", help_behavior_hint="(default: leaderboard.html in DIR)")
    ] = None
    """The page."""


@report_errors()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 all entries admitted, 1 some refused, 2 error, 130 interrupted."""
    command = tyro.cli(
        Command,
        prog=typed("leaderboard"),
        description=(__doc__ or "").format(command=typed("leaderboard")),
        args=arguments,
    )
    out = command.out or command.folder / PAGE
    if command.bundle is not None or command.about is not None:
        _add_bundle(command)
    board = read_leaderboard(command.folder)
    write_text(out, render_leaderboard(board))
    _print(board, out, Console(), Console(stderr=True))
    return 1 if board.refused else 0


def _add_bundle(command: Command) -> None:
    """Write the entry of a bundle; raises `HardrankError`."""
    if command.bundle is None or command.about is None:
        raise EntryError("an entry of a bundle needs both --bundle and --about")
    about, card = read_about(command.about), load_card(command.bundle)
    entry = make_entry_of_card(card, from_run(command.bundle, data_root=command.data_root), about)
    write_text(command.folder / f"{card.name}{ENTRY_SUFFIX}", entry.model_dump_json(indent=2) + "\n")


def _print(board: Leaderboard, out: Path, console: Console, errors: Console) -> None:
    for problem in board.refused.values():
        errors.print(f"[yellow]refused[/]: {escape(problem)}", highlight=False, soft_wrap=True)
    count = len(board.admitted)
    console.print(f"{count} {'entry' if count == 1 else 'entries'} admitted, {len(board.refused)} refused")
    console.print(str(out), highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
