"""Entries of a leaderboard: made from reports, checked by the admission rules, compared on a page."""

import json
from pathlib import Path
from typing import Any

import pytest

from hardrank.audit_app.entries.admission import RULES, refusal, repeated
from hardrank.audit_app.entries.entry import EntryError, LeaderboardEntry, read_about, read_entry
from hardrank.audit_app.entries.making import make_entry, make_entry_of_card, wilson_interval
from hardrank.audit_app.entries.page import comparable_entries, read_leaderboard, render_leaderboard
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.leaderboard import main
from hardrank.audit_app.results.schema import CheckEntry
from hardrank.models.bundle import load_card
from hardrank.trainer.runtime.launch import ROOT
from tests.audit_app.entries.made_up import make_about, make_audit, make_audited, make_made_up_entry, make_measured_card

HOSTILE = "<script>alert(1)</script>"


def write(folder: Path, name: str, entry: LeaderboardEntry) -> None:
    (folder / f"{name}.entry.json").write_text(entry.model_dump_json(), encoding="utf-8")


def changed(entry: LeaderboardEntry, *path: str, value: Any) -> LeaderboardEntry:
    """The entry with one field replaced, wherever it is."""
    content = json.loads(entry.model_dump_json())
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return LeaderboardEntry.model_validate(content)


def test_an_entry_holds_what_the_report_says() -> None:
    model = make_audited(checks=[CheckEntry(kind="collapse", where="model", message="")] * 2)
    report = make_audit(model)
    entry = make_entry(report, model, make_about())
    assert entry.attacked.ers.value == model.ers == pytest.approx(50)
    assert entry.attacked.figures.keys() == model.figures.keys()
    assert entry.attacked.strong_ers.value == 38
    assert "worst of 1 attack for" in entry.attacked.strongest_attack
    assert "QA+, APGD" in entry.attacked.strongest_attack
    assert entry.gallery.sha256 == report.settings.gallery.sha256
    assert entry.threat_model.gtm == "reference"
    assert entry.unreliable == ["collapse"]
    recall = entry.benign.recall_at_1
    assert recall.low < recall.value == 0.5 < recall.high
    assert LeaderboardEntry.model_validate_json(entry.model_dump_json()) == entry


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_wilson_interval_solves_its_equation(share: float) -> None:
    """The ends are where |share − p| is 1.96 standard errors of p."""
    found = wilson_interval(share, 200)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for end in (found.low, found.high):
        if end not in {0.0, 1.0, share}:
            assert abs(share - end) == pytest.approx(1.959964 * (end * (1 - end) / 200) ** 0.5, rel=1e-6)


def test_a_report_without_what_an_entry_needs_is_refused() -> None:
    for missing in ({"strong": None}, {"worst_case_recall": None}, {"ers": None}):
        model = make_audited().model_copy(update=missing)
        with pytest.raises(EntryError, match="strong ERS"):
            make_entry(make_audit(model), model, make_about())
    model = make_audited().model_copy(update={"benign": None})
    with pytest.raises(EntryError, match="labeled gallery"):
        make_entry(make_audit(model), model, make_about())


def test_an_entry_of_a_card_equals_that_of_a_report(tiny_zoo: list[Path], gratings: Path) -> None:
    gallery, card = from_images(gratings), load_card(tiny_zoo[0])
    measured = make_measured_card(card, gallery=len(gallery))
    entry = make_entry_of_card(measured, gallery, make_about())
    model = make_audited()
    reported = make_entry(make_audit(model), model, make_about())
    assert entry.attacked == reported.attacked
    assert entry.threat_model == reported.threat_model
    assert entry.gallery.sha256 == gallery.digest()
    assert entry.model_sha256 == card.files["model.onnx"].sha256
    assert (entry.seed, entry.command) == (3, card.command)
    assert refusal(entry) is None
    for other, named in (
        (make_measured_card(card, gallery=len(gallery), strong=None), "strong ERS"),
        (make_measured_card(card, gallery=9), "9 images"),
    ):
        with pytest.raises(EntryError, match=named):
            make_entry_of_card(other, gallery, make_about())
    with pytest.raises(EntryError, match="no scorecard"):
        make_entry_of_card(card.model_copy(update={"robustness": None}), gallery, make_about())


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("threat_model", "knowledge"), "square", "without gradients"),
        (("attacked", "n"), 99, "99 images"),
        (("attacked", "strong_images"), 8, "strong ERS has 8"),
        (("threat_model", "steps"), 8, "8 steps"),
        (("attacked", "ers", "value"), 51.0, "mean of its ten scores 50"),
        (("attacked", "figures", "TMA", "low"), 0.9, "TMA"),
        (("benign", "recall_at_1"), {"value": 1.5, "low": 1, "high": 2}, "between 0 and 1"),
    ],
)
def test_each_rule_refuses_with_a_reason(path: tuple[str, ...], value: Any, named: str) -> None:
    entry = make_made_up_entry()
    assert refusal(entry) is None
    reason = refusal(changed(entry, *path, value=value))
    assert reason is not None
    assert named in reason


def test_missing_results_are_named() -> None:
    entry = make_made_up_entry()
    figures = {key: value.model_dump() for key, value in entry.attacked.figures.items() if key != "GTT"}
    assert refusal(changed(entry, "attacked", "figures", value=figures)) == "the results GTT are missing"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "cannot be read"),
        ("[]", "the file"),
        ('{"about": {"name": "x"}}', "about.link"),
        (json.dumps({**json.loads(make_made_up_entry().model_dump_json()), "more": 1}), "more"),
        (json.dumps({**json.loads(make_made_up_entry().model_dump_json()), "schema_version": "x/2"}), "schema_version"),
    ],
)
def test_a_damaged_entry_is_refused_and_the_field_named(content: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(EntryError, match=named):
        read_entry(tmp_path / "a.json")


def test_links_with_other_schemes_are_refused(tmp_path: Path) -> None:
    content = json.loads(make_about().model_dump_json()) | {"link": "javascript:alert(1)"}
    (tmp_path / "about.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EntryError, match="link"):
        read_about(tmp_path / "about.json")


def test_the_lower_score_of_a_model_replaces_the_higher() -> None:
    entries = {"a": make_made_up_entry(strong=40.0), "b": make_made_up_entry(strong=30.0), "c": make_made_up_entry()}
    assert repeated(entries) == {"a": "b", "c": "b"}
    entries["c"] = make_made_up_entry(gallery="2" * 64)
    assert repeated(entries) == {"a": "b"}


def test_only_equal_galleries_and_budgets_are_compared_and_unreliable_models_come_last() -> None:
    failed = [CheckEntry(kind="collapse", where="model", message="")]
    entries = [
        make_made_up_entry(strong=30.0, about={"name": "low"}),
        make_made_up_entry(strong=90.0, about={"name": "unreliable"}, checks=failed),
        make_made_up_entry(strong=50.0, about={"name": "high"}),
        make_made_up_entry(gallery="2" * 64, about={"name": "elsewhere"}),
        changed(make_made_up_entry(about={"name": "budget"}), "threat_model", "epsilon", value=4 / 255),
    ]
    names = [[entry.about.name for entry in group.entries] for group in comparable_entries(entries)]
    assert names[0] == ["high", "low", "unreliable"]
    assert sorted(names[1:]) == [["budget"], ["elsewhere"]]


def test_the_page_is_self_contained_escaped_and_states_the_rules(tmp_path: Path) -> None:
    write(tmp_path, "a", make_made_up_entry(about={"name": HOSTILE, "authors": [HOSTILE], "footnote": HOSTILE}))
    (tmp_path / "bad<b>.json").write_text("{}", encoding="utf-8")
    page = render_leaderboard(read_leaderboard(tmp_path))
    assert HOSTILE not in page
    assert page.count("<script>") == 1
    assert "bad<b>" not in page
    assert str(tmp_path) not in page
    assert "src=" not in page
    assert "@import" not in page
    for rule in RULES:
        assert rule.sentence.split(".")[0] in page
    assert "https://arxiv.org/abs/2203.01439" in page


def test_the_command_writes_the_page_and_names_refused_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no entries" in capsys.readouterr().err
    assert main([str(tmp_path / "absent")]) == 2
    capsys.readouterr()
    write(tmp_path, "good", make_made_up_entry())
    assert main([str(tmp_path)]) == 0
    assert "1 entry admitted, 0 refused" in capsys.readouterr().out
    write(tmp_path, "few", changed(make_made_up_entry(), "attacked", "n", value=3))
    assert main([str(tmp_path), "--out", str(tmp_path / "site" / "index.html")]) == 1
    said = capsys.readouterr()
    assert "few.entry.json: 3 images were attacked" in said.err
    assert "HM[S,g_LGA]&amp;ICS" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_the_schema_in_the_documentation_is_that_of_the_code() -> None:
    shown = json.loads((ROOT / "docs" / "entry.schema.json").read_text(encoding="utf-8"))
    assert shown == LeaderboardEntry.model_json_schema()


def test_the_example_page_is_that_of_its_entries_and_has_the_committed_figures() -> None:
    folder = ROOT / "docs" / "leaderboard"
    board = read_leaderboard(folder)
    assert not board.refused
    assert (folder / "leaderboard.html").read_text(encoding="utf-8") == render_leaderboard(board)
    measured = json.loads((ROOT / "benchmarks" / "results" / "pretrained.json").read_text(encoding="utf-8"))
    for name, model in measured["runs"]["caltech101"]["models"].items():
        attacked = board.admitted[f"caltech101-{name}.entry.json"].attacked
        assert attacked.ers.value == pytest.approx(model["ers"]["ers"], abs=1e-9)
        assert attacked.strong_ers.value == pytest.approx(model["strong"]["ers"], abs=1e-9)
