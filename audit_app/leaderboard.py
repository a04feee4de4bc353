"""Make a leaderboard, one static page, from a folder of entries.

`hardrank audit --entry ABOUT.json` writes an entry, NAME.entry.json, for each model. Put entries into one folder; each
table of the page compares those with the same gallery and budget. The page needs no network. It states the admission
rules; entries that break one are refused, with the reason.

Examples:
  Write entries/leaderboard.html:
    {command} entries
  Write the page elsewhere:
    {command} entries --out site/index.html

Exit status: 0 all entries admitted, 1 some refused (the page shows the others), 2 invalid arguments, no entries.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console
from rich.markup import escape

from hardrank.audit_app.entries.page import Leaderboard, read_leaderboard, render_leaderboard
from hardrank.models.errors import HardrankError
from hardrank.models.files import write_text
from hardrank.models.home import typed

PAGE: Final = "leaderboard.html"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the entries, *.json."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="HTML", help_behavior_hint="(default: leaderboard.html in DIR)")
    ] = None
    """The page."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 all entries admitted, 1 some refused, 2 error."""
    console, errors = Console(), Console(stderr=True)
    command = tyro.cli(
        Command,
        prog=typed("leaderboard"),
        description=(__doc__ or "").format(command=typed("leaderboard")),
        args=arguments,
    )
    out = command.out or command.folder / PAGE
    try:
        board = read_leaderboard(command.folder)
        write_text(out, render_leaderboard(board))
    except (HardrankError, OSError) as error:
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    _print(board, out, console, errors)
    return 1 if board.refused else 0


def _print(board: Leaderboard, out: Path, console: Console, errors: Console) -> None:
    for problem in board.refused.values():
        errors.print(f"[yellow]refused[/]: {escape(problem)}", highlight=False, soft_wrap=True)
    count = len(board.admitted)
    console.print(f"{count} {'entry' if count == 1 else 'entries'} admitted, {len(board.refused)} refused")
    console.print(str(out), highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
