"""The tables of a study for docs/results.md: from `docs/results/STUDY/study.json` and the logs of its trials."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from hardrank.trainer.studies.claims import claims_markdown

_LAST: Final = 5
"""Entries of a training's log whose mean is the loss at the end."""


def rows_table(folder: Path) -> list[str]:
    """Return the lines of the table of measured rows."""
    lines = [
        f"| study `{folder.name}` | seeds | Recall@1 % | mean cosine | ERS | worst-case Recall@1 % |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in _study(folder)["rows"]:
        figures = [
            _mean(row["metrics"].get("recall_at_1"), ".1f", percent=True),
            _mean(row["mean_cosine"], ".2f"),
            _mean(row["ers"], ".1f"),
            _mean(row["worst_case_recall"], ".1f"),
        ]
        lines.append(f"| `{row['title']}` | {len(row['seeds'])} | {' | '.join(figures)} |")
    return lines


def _mean(spread: Mapping[str, float] | None, form: str, *, percent: bool = False) -> str:
    """Return the mean of a figure; a dash where no training of the row was measured."""
    return "–" if spread is None else f"{spread['mean'] * (100 if percent else 1):{form}}"


def destinations_table(folder: Path) -> list[str]:
    """Return the range of the gradual adversary's destination and the last loss, beside those without an adversary."""
    lines = [
        f"| study `{folder.name}` | lowest destination | highest destination | triplet loss at the end |",
        "|---|--:|--:|--:|",
    ]
    for row in _study(folder)["rows"]:
        if not row["title"].startswith(("HM[S,g_LGA]", "regular")):
            continue
        logs = [json.loads((folder / "trials" / f"{name}.json").read_text("utf-8"))["log"] for name in row["trials"]]
        destinations = [value for log in logs for value in log.get("destination", ())]
        ends = f"{min(destinations):.3f} | {max(destinations):.3f}" if destinations else " | "
        loss = fmean(value for log in logs for value in log.get("triplet_loss", log["loss"])[-_LAST:])
        lines.append(f"| `{row['title']}` | {ends} | {loss:.3f} |")
    return lines


def claims_table(folder: Path) -> list[str]:
    """Return the claims with their verdicts and numbers."""
    return [line for line in claims_markdown(_study(folder)["claims"]) if line.startswith("|")]


def _study(folder: Path) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return content


TABLES: Final[Mapping[str, Callable[[Path], list[str]]]] = {
    "table": rows_table,
    "destinations": destinations_table,
    "claims": claims_table,
}
"""By the name in the comment that opens a block of the page."""
