"""Write the measured figures into docs/results.md.

    python -m docs.fill_results

A figure of the page is followed by a comment that names its file in benchmarks/results and the keys of its value, as in
`0.93<!-- main_job.json runs/demo/… -->`. The command replaces the figure by that value, with as many decimals as it has
on the page, as a percentage if a % follows. The text and everything else stay as they are.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from benchmarks.command import RESULTS, ROOT

PAGE: Final = ROOT / "docs" / "results.md"

FIGURE: Final = re.compile(
    r"(?P<number>-?\d+(?:\.(?P<decimals>\d+))?)(?P<unit>[^|\n<]*)<!-- (?P<file>\w+\.json) (?P<keys>[^>]+) -->"
)
"""A figure and the comment after it."""


def filled(page: str, results: Path = RESULTS) -> str:
    """Return the text of a page with the figures of the files in `results`.

    Raises:
        FileNotFoundError: A file that the page names does not exist.
        LookupError: It has no value with these keys.
    """
    return FIGURE.sub(lambda match: _figure(match, results), page)


def _figure(match: re.Match[str], results: Path) -> str:
    value: Any = json.loads((results / match["file"]).read_text(encoding="utf-8"))
    for key in match["keys"].split("/"):
        value = value[int(key) if isinstance(value, list) else key]
    shown = float(value) * (100 if "%" in match["unit"] else 1)
    return f"{shown:.{len(match['decimals'] or '')}f}{match[0].removeprefix(match['number'])}"


def main() -> None:
    """Run the command."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
