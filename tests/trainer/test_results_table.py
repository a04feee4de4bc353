"""The results that the train command prints, from cards made by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hardrank.models.bundle import CARD
from hardrank.models.files import write_json
from hardrank.trainer import run
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, CheckKind
from hardrank.trainer.main_job import MainJobResult
from tests.models.test_bundle import make_card

Checks = Sequence[tuple[CheckKind, str]]
PrintResults = Callable[..., str]


@pytest.fixture
def print_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PrintResults:
    """Run the command with bundles that consist of a card, in place of the training; returns what it prints."""

    def call(folder: Path, *, benign: Checks = (), robust: Checks = (), defense: str = "regular[S]") -> str:
        bundles = {}
        for kind, checks in (("benign", benign), ("robust", robust)):
            robustness = {
                "n": 3,
                "ers": 22.3,
                "ers_low": 20.0,
                "ers_high": 24.0,
                "figures": {key: {"value": 0.5} for key in ERS_KEYS},
                "checks": [{"kind": str(name), "where": where, "message": "…"} for name, where in checks],
            }
            changes = {
                "defense": defense,
                "data": {"test": {"images": 3, "classes": 2}},
                "metrics": dict.fromkeys(run._METRICS.values(), 0.5),
                "robustness": robustness,
            }
            bundles[kind] = folder / f"mine-{kind}"
            bundles[kind].mkdir(parents=True)
            write_json(bundles[kind] / CARD, make_card({}).model_copy(update=changes).model_dump(mode="json"))
        monkeypatch.setattr(run, "run_main_job", lambda *_, **__: MainJobResult(folder / "run", bundles))
        monkeypatch.setenv("COLUMNS", "160")
        assert run.main([]) == 0
        return capsys.readouterr().out

    return call


def test_failed_checks_are_printed_with_remedies(tmp_path: Path, print_results: PrintResults) -> None:
    falling: Checks = [(CheckKind.STILL_FALLING, attack) for attack in ("CA+", "QA+", "TMA")]
    benign: Checks = [*falling, (CheckKind.COLLAPSE, "model"), (CheckKind.NOISE_BEATS_ATTACK, "GTT")]
    printed = print_results(tmp_path, benign=benign)
    (line,) = (line for line in printed.splitlines() if line.startswith("caution"))
    assert "the ERS of the benign model" in line
    assert "3 attacks: loss still falling, so attack longer (--evaluation.steps" in line
    assert "model: collapse, so judge it by Recall@1 beside ERS; a lower --benign.learning-rate" in line
    assert "GTT: noise beats the attack, so attack in smaller steps" in line


def test_every_kind_of_check_is_printed(tmp_path: Path, print_results: PrintResults) -> None:
    printed = print_results(tmp_path, robust=[(kind, "GTM") for kind in CheckKind])
    (line,) = (line for line in printed.splitlines() if line.startswith("caution"))
    assert all(f"GTM: {kind}" in line for kind in CheckKind)


def test_square_brackets_in_names_are_printed_literally(tmp_path: Path, print_results: PrintResults) -> None:
    printed = print_results(tmp_path / "new [old] x[/]", defense="hm[s]&[/x]")
    assert "hm[s]&[/x]" in printed
    lines = [line for line in printed.splitlines() if "new [old] x[/]" in line]
    assert len(lines) == 9, "two bundles, the log, how to load one, two indexes, a server, an audit, the app"


def test_bundles_outside_the_working_directory_are_printed_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, print_results: PrintResults
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert f"  {tmp_path / 'clone' / 'mine-robust'}\n" in print_results(Path("../clone"))


def test_models_without_a_failed_check_have_no_caution(tmp_path: Path, print_results: PrintResults) -> None:
    assert "caution" not in print_results(tmp_path)
