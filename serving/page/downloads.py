"""Results as files: JSON as the API returns them, and CSV for spreadsheets."""

import base64
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from hardrank.serving.api.schemas import match_json
from hardrank.serving.store.items import Match

_COLUMNS: Final = ("model", "rank", "score", "id", "label", "width", "height", "metadata")
_FORMULA: Final = re.compile(r'(^|[;\t])(?=[ "]*[=+\-@]|[\t\r])')
"""Where a cell begins with a formula, also in a reader that splits at semicolons or tabs and misses our quotes."""


def json_url(query: str, by_model: Mapping[str, Sequence[Match]]) -> str:
    """Return the results as the data URL of a JSON file."""
    models = {
        key: [{**match_json(match), "metadata": match.item.metadata} for match in matches]
        for key, matches in by_model.items()
    }
    text = json.dumps({"query": query, "models": models}, ensure_ascii=False, indent=1)
    return _url("application/json", text)


def csv_url(by_model: Mapping[str, Sequence[Match]]) -> str:
    """Return the results as the data URL of a CSV file.

    What a spreadsheet would take for a formula gets an apostrophe before it, inside a text too if it follows a
    semicolon or a tab, where many spreadsheets split a line.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerow(_COLUMNS)
    for key, matches in by_model.items():
        for match in matches:
            item = match.item
            metadata = item.metadata_json.decode() if item.metadata else ""
            name, id, label, metadata = map(_plain, (key, item.id, item.label or "", metadata))
            size = (item.width or "", item.height or "")
            writer.writerow([name, match.rank, f"{match.score:.6f}", id, label, *size, metadata])
    return _url("text/csv", "\ufeff" + stream.getvalue())


def _plain(text: str) -> str:
    return _FORMULA.sub(r"\1'", text)


def _url(media_type: str, text: str) -> str:
    return f"data:{media_type};charset=utf-8;base64,{base64.b64encode(text.encode()).decode('ascii')}"
