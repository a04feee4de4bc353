"""The tables of measured figures agree with the JSON files that they name."""

import csv
import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import pytest

from benchmarks.command import RESULTS
from docs.fill_results import FIGURE, filled
from hardrank.trainer.runtime.launch import ROOT, Launch
from hardrank.trainer.studies.claims import claims_markdown
from hardrank.trainer.studies.plan import load_study
from hardrank.trainer.studies.schedule import read_state
from hardrank.trainer.studies.table import summarize
from hardrank.trainer.studies.trial import StudyRun

STUDIES: Final = ROOT / "docs" / "results"
PAPER: Final = ROOT / "tests" / "trainer" / "golden" / "paper_tables.csv"
PAGE: Final = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
SCORECARD_PAGE: Final = (ROOT / "docs" / "scorecard.md").read_text(encoding="utf-8")
SEARCH_PAGE: Final = (ROOT / "docs" / "search-page.md").read_text(encoding="utf-8")

Row = dict[str, str]


def tables(text: str) -> list[list[Row]]:
    """The tables of a page: for each row its cells by heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def decimals(figure: str) -> int:
    return len(figure.partition(".")[2])


def assert_figure(shown: str, value: float) -> None:
    """A figure must be the value, rounded to as many places as it has."""
    number = re.match(r"[-−]?[\d.]+", shown)
    assert number, shown
    value = 100 * value if "%" in shown else value
    assert float(number[0].replace("−", "-")) == round(value, decimals(number[0])), (shown, value)


STUDY_ROWS: Final = [
    (study, row[heading].strip("`"), row)
    for table in tables(PAGE)
    for row in table
    for heading in row
    for study in re.findall(r"^study `([\w-]+)`$", heading)
]


def test_the_page_has_the_figures_of_the_files_that_it_names() -> None:
    assert len(FIGURE.findall(PAGE)) == len(re.findall(r"<!-- \w+\.json", PAGE)) > 200
    assert filled(PAGE) == PAGE


def test_figures_are_rounded_as_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps({"runs": [{"ratio": 1.2345, "share": 0.987, "n": 200}]}))
    names = [f"<!-- speed.json runs/0/{key} -->" for key in ("ratio", "share", "n")]
    old, new = ("| 9.99 ×{} | 1.0 %{} | 7{} |".format(*names), "| 1.23 ×{} | 98.7 %{} | 200{} |".format(*names))
    assert filled(old, tmp_path) == new == filled(new, tmp_path)
    within = "Recall@1 of 3 models: {}" + names[1]
    assert filled(within.format("0.5"), tmp_path) == within.format("1.0")
    with pytest.raises(LookupError):
        filled("1<!-- speed.json runs/0/absent -->", tmp_path)


def test_benchmark_commands_exist() -> None:
    commands = re.findall(r"`python (benchmarks/\w+\.py)\b.*?`", PAGE)
    assert len(commands) > 20
    assert [script for script in commands if not (ROOT / script).is_file()] == []


def test_every_result_file_is_on_the_page() -> None:
    assert {path.name for path in RESULTS.glob("*.json")} == set(re.findall(r"\b(\w+\.json)\b", PAGE))


def test_the_readme_states_what_the_pretrained_recipe_reaches() -> None:
    models = json.loads((RESULTS / "pretrained.json").read_text(encoding="utf-8"))["runs"]["caltech101"]["models"]
    for kind, found in models.items():
        expected = [
            f"{found['metrics']['recall_at_1']:.3f}",
            f"{found['ers']['ers']:.1f}",
            f"{found['strong']['ers']:.1f} (n = {found['strong']['n']})",
            f"{found['worst_case_recall'] / 100:.3f}",
        ]
        assert f"| {kind} | {' | '.join(expected)} |" in README


def test_the_scorecard_page_states_what_attacks_leave_of_recall() -> None:
    measured = json.loads((RESULTS / "recall_at_1.json").read_text(encoding="utf-8"))["bundles"]["demo-robust"]
    (sentence,) = re.findall(r"[Oo]f \d+ test images of demo-robust,.*? \(\[measured\]", SCORECARD_PAGE, re.DOTALL)
    found = [float(figure) for figure in re.findall(r"([\d.]+) %", sentence)]
    left = [measured[name]["recall_at_1"] for name in ("ES", "LTM", "MARGIN", "MARGIN, longer")]
    assert found == [measured["benign"], *left]
    assert f"f {measured['images']} test images" in sentence


def content(study: str, title: str) -> Any:
    rows = json.loads((STUDIES / study / "study.json").read_text(encoding="utf-8"))["rows"]
    (row,) = (row for row in rows if row["title"] == title)
    return row


@pytest.mark.parametrize(("study", "title", "row"), STUDY_ROWS)
def test_study_figures_match_their_file(study: str, title: str, row: Row) -> None:
    measured = content(study, title)
    if "ERS" in row:
        assert row["seeds"] == str(len(measured["seeds"]))
        assert_figure(row["ERS"], measured["ers"]["mean"])
        assert_figure(row["Recall@1 %"], 100 * measured["metrics"]["recall_at_1"]["mean"])
        assert_figure(row["mean cosine"], measured["mean_cosine"]["mean"])
        if worst := row.get("worst-case Recall@1 %"):
            assert_figure(worst, measured["worst_case_recall"]["mean"])
    else:
        folder = STUDIES / study / "trials"
        trials = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in measured["trials"]]
        logs = [trial["log"] for trial in trials]
        if row["lowest destination"]:
            destinations = [value for log in logs for value in log["destination"]]
            assert_figure(row["lowest destination"], min(destinations))
            assert_figure(row["highest destination"], max(destinations))
        losses = [value for log in logs for value in log.get("triplet_loss", log["loss"])[-5:]]
        assert_figure(row["triplet loss at the end"], fmean(losses))


def paper() -> dict[str, dict[str, str]]:
    """The paper's results on CUB with 8 steps, by defense."""
    with PAPER.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["dataset"], row["eta"]) == ("CUB", "8")]
    return {re.sub(r" \(xi=.*", "", row["defense"]): row for row in rows}


def test_published_figures_match_the_paper() -> None:
    published = paper()
    shown = [(title, row) for _, title, row in STUDY_ROWS if row.get("published ERS")]
    assert shown
    for title, row in shown:
        assert (row["published Recall@1 %"], row["published ERS"]) == (published[title]["R@1"], published[title]["ERS"])


@pytest.mark.parametrize("study", ["caltech101-short", "demo", "demo-claims", "demo-levers"])
def test_figures_in_the_text_of_a_study_are_in_its_tables(study: str) -> None:
    """Or in the paper's. Names in backticks and ratios such as 8/255 are not figures."""
    (section,) = (
        part for part in re.split(r"^##+ (?=Defenses)", PAGE, flags=re.MULTILINE) if f"study `{study}`" in part
    )
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    text = re.sub(r"^\|.*$|`[^`]*`", "", section, flags=re.MULTILINE)
    measured = {cell for table in tables(section) for row in table for cell in row.values()}
    measured |= {row["ERS"] for row in paper().values()}
    figures = re.findall(r"\d+\.\d+", text)
    assert not [figure for figure in figures if figure not in measured]
    assert figures or study.startswith("demo")


def test_agreement_figures_match_their_file() -> None:
    """Cells are the area under the ROC curve and the share of attacked queries that are called unusual or worse."""
    measured = json.loads((RESULTS / "suspicion.json").read_text(encoding="utf-8"))
    (table,) = (table for table in tables(SEARCH_PAGE) if "attack" in table[0])
    checked = 0
    for row in table:
        for heading, models in (
            ("on the benign model", "benign"),
            ("on the robust model", "robust"),
            ("on both models", "benign and robust"),
        ):
            attack = re.match(r"\S+(?=:)", row["attack"])
            assert attack
            values = measured[f"{attack[0]} on {models}"]
            area, share = row[heading].split(" ", 1)
            assert_figure(area, values["auc"])
            assert_figure(share.strip("()"), values["share_unusual_or_worse"])
            checked += 1
    assert checked == 12


@pytest.mark.parametrize("study", sorted(path.name for path in STUDIES.iterdir()))
def test_tables_and_claims_of_a_study_are_computed_from_its_trials(study: str) -> None:
    planned = load_study(study)
    state = read_state(StudyRun(study=planned, launch=Launch(), results=STUDIES / study))
    choices = {title: choice.to_dict() for title, choice in state.choices.items()}
    found = summarize(planned, state.planned, state.done, {}, choices=choices)
    written = json.loads((STUDIES / study / "study.json").read_text(encoding="utf-8"))
    for name in ("rows", "missing", "claims", "equal_recall", "choices"):
        assert json.loads(json.dumps(found[name])) == written[name], name
    page = (STUDIES / study / "README.md").read_text(encoding="utf-8")
    assert all(line in page.splitlines() for line in claims_markdown(written["claims"]))
