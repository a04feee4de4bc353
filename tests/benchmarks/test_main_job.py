"""The README's table says what was measured."""

import json

from benchmarks.main_job import README, RESULT, table


def test_the_readme_shows_the_measured_table() -> None:
    assert table(json.loads(RESULT.read_text(encoding="utf-8"))) in README.read_text(encoding="utf-8")


def test_several_seeds_become_a_mean_and_a_standard_deviation() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    run = result["runs"]["demo"]
    other = json.loads(json.dumps({key: run[key] for key in ("seeds", "models", "minutes", "seconds")}))
    other["models"]["robust"]["ers"]["ers"] = run["models"]["robust"]["ers"]["ers"] + 2
    first = run["models"]["robust"]["ers"]["ers"]
    rows = table({"runs": {"demo": {**run, "other_seeds": [other]}}}).splitlines()
    assert f"| {first + 1:.1f} ± {2**0.5:.1f} |" in rows[3]
    assert "mean ± standard deviation of 2 seeds" in rows[-1]


def test_minutes_are_those_of_the_fastest_run() -> None:
    run = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]["demo"]
    stages = {
        "data": 5,
        "warmup": 60,
        "benign": 6,
        "benign evaluation": 70,
        "benign export": 3,
        "robust-1": 30,
        "robust": 24,
    }
    fast = {**run, "seconds": stages, "minutes": 3.3}
    slow = {**fast, "seconds": {**stages, "warmup": 600}, "minutes": 12.3}
    for order in ((fast, slow), (slow, fast)):
        rows = table({"runs": {"demo": {**order[0], "other_seeds": [order[1]]}}}).splitlines()
        assert rows[2].endswith("| 2.0, 3.3 |")
