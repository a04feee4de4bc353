"""List suspicious items of an index: hubs, which are among the nearest of unusually many items, as an image that was
altered to be retrieved for many queries is; and items whose neighbors two models see differently.

The index is only read, also while a server uses it.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro
from rich.console import Console

from hardrank.models.command_errors import report_errors
from hardrank.models.files import write_json
from hardrank.models.home import typed
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.inspection.scan import ScanOptions, ScanResult, scan

_EXAMPLES: Final = """
Examples:
  {scan} --index indexes/demo-robust
      list the hubs
  {scan} --index indexes/demo-robust --compare indexes/demo-benign --json scan.json
      list the hubs and where the neighbors differ, and write all scores to a file
  {index} --out indexes/demo-robust --delete beach~1.jpg
      delete an item that should not be there
"""


@dataclass(frozen=True, kw_only=True)
class ScanCommand:
    """Options of the command."""

    index: Path
    """Folder of the index."""
    compare: Path | None = None
    """Folder of the index of another model of the same gallery."""
    top: int = 20
    """Items to print of each kind."""
    json: Path | None = None
    """File to write all results to."""
    options: Annotated[ScanOptions, tyro.conf.arg(name="")] = field(default_factory=ScanOptions)


@report_errors()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Options; None for those of the process.

    Returns:
        Exit status: 0 success, 2 invalid options or input, 130 interrupted.
    """
    command = tyro.cli(
        ScanCommand,
        prog=typed("scan"),
        description=f"{__doc__}{_EXAMPLES.format(scan=typed('scan'), index=typed('index'))}",
        args=sys.argv[1:] if arguments is None else list(arguments),
    )
    _run(command, Console())
    return 0


def _run(command: ScanCommand, console: Console) -> None:
    with SearchIndex.open(command.index, maintenance=False) as index:
        if command.compare is None:
            result = scan(index, command.options)
        else:
            with SearchIndex.open(command.compare, maintenance=False) as other:
                result = scan(index, command.options, other=other)
    if command.json is not None:
        write_json(command.json, asdict(result))
    for line in _lines(result, command):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(result: ScanResult, command: ScanCommand) -> list[str]:
    lines = [
        f"{result.items} items, {result.queries} of them searched with; an item is among the {result.k} nearest of "
        f"{result.expected_occurrences:g} others on average",
        f"hubs (score above {result.threshold:g}): {len(result.hubs)}",
    ]
    lines += [
        f"  {hub.score:7.2f}  among the nearest of {hub.occurrences:6d}  {_name(hub.id, hub.label)}"
        for hub in result.hubs[: command.top]
    ]
    if command.compare is not None:
        lines.append(f"least agreement of the two models about the {result.k} nearest:")
        lines += [
            f"  {one.overlap:7.0%}  in common  {_name(one.id, one.label)}"
            for one in result.disagreements[: command.top]
        ]
    return lines


def _name(id: str, label: str | None) -> str:
    return id if label is None else f"{id} ({label})"


if __name__ == "__main__":
    sys.exit(main())
