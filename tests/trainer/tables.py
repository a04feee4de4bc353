"""Reads CSV files that the tests check."""

import csv
from pathlib import Path


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header."""
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
