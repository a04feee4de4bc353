"""The README's table says what was measured."""

import json

from benchmarks.main_job import README, RESULT, table


def test_the_readme_shows_the_measured_table() -> None:
    assert table(json.loads(RESULT.read_text(encoding="utf-8"))) in README.read_text(encoding="utf-8")
