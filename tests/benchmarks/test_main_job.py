"""The README's table says what was measured."""

import json

from benchmarks.main_job import README, RESULT, table


def test_the_readme_shows_the_measured_table() -> None:
    assert table(json.loads(RESULT.read_text(encoding="utf-8"))) in README.read_text(encoding="utf-8")


def test_several_seeds_become_a_mean_and_a_standard_deviation() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    run = result["runs"]["demo"]
    other = json.loads(json.dumps({key: run[key] for key in ("seeds", "models", "minutes")}))
    other["models"]["robust"]["ers"]["ers"] = run["models"]["robust"]["ers"]["ers"] + 2
    first = run["models"]["robust"]["ers"]["ers"]
    rows = table({"runs": {"demo": {**run, "other_seeds": [other]}}}).splitlines()
    assert f"| {first + 1:.1f} ± {2**0.5:.1f} |" in rows[3]
    assert "mean ± standard deviation of 2 seeds" in rows[-1]
