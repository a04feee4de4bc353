"""Write the measured figures into docs/results.md.

    python -m docs.fill_results

A figure of the page is followed by a comment that names its file in benchmarks/results and the keys of its value, as in
`0.93<!-- main_job.json runs/demo/… -->`. The command replaces the figure by that value, with as many decimals as it has
on the page, as a percentage if a % follows. Between `<!-- STUDY: table -->` and `<!-- end of table -->` it writes the
table of the study, and likewise its destinations and claims. Everything else stays as it is.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from benchmarks.command import RESULTS, ROOT
from docs.study_tables import TABLES

PAGE: Final = ROOT / "docs" / "results.md"
STUDIES: Final = ROOT / "docs" / "results"

FIGURE: Final = re.compile(
    r"(?P<number>-?\d+(?:\.(?P<decimals>\d+))?)(?P<unit>[^|\n<\d]*)<!-- (?P<file>\w+\.json) (?P<keys>[^>]+) -->"
)
"""A figure, its unit and the comment after it. No digit may be between them: a line can have other numbers before."""
_BLOCK: Final = re.compile(
    r"(<!-- (?P<study>[\w-]+): (?P<part>\w+) -->\n).*?(<!-- end of (?P=part) -->)", flags=re.DOTALL
)


def filled(page: str, results: Path = RESULTS, studies: Path = STUDIES) -> str:
    """Return the text of a page with the figures of the files in `results`, and the tables of `studies`.

    Raises:
        FileNotFoundError: A file that the page names does not exist.
        LookupError: It has no value with these keys.
    """
    page = FIGURE.sub(lambda match: _figure(match, results), page)
    return _BLOCK.sub(lambda match: _block(match, studies), page)


def _figure(match: re.Match[str], results: Path) -> str:
    value: Any = json.loads((results / match["file"]).read_text(encoding="utf-8"))
    for key in match["keys"].split("/"):
        value = value[int(key) if isinstance(value, list) else key]
    shown = float(value) * (100 if "%" in match["unit"] else 1)
    return f"{shown:.{len(match['decimals'] or '')}f}{match[0].removeprefix(match['number'])}"


def _block(match: re.Match[str], studies: Path) -> str:
    lines = TABLES[match["part"]](studies / match["study"])
    return "\n".join([match[1], *lines, "", match[4]])


def main() -> None:
    """Run the command."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
