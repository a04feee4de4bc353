"""The results that the train command prints, from cards made by hand."""

from pathlib import Path

import pytest

from hardrank.models.bundle import CARD
from hardrank.models.files import write_json
from hardrank.trainer import run
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, CheckKind
from hardrank.trainer.main_job import MainJobResult
from tests.models.test_bundle import make_card

Checks = list[tuple[CheckKind, str]]


def print_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, checks: dict[str, Checks], *, defense: str = "regular[S]"
) -> None:
    """Run the command with bundles that consist of a card, in place of the training."""
    bundles = {kind: folder / f"mine-{kind}" for kind in checks}
    for kind, bundle in bundles.items():
        robustness = {
            "n": 3,
            "ers": 22.3,
            "ers_low": 20.0,
            "ers_high": 24.0,
            "figures": {key: {"value": 0.5} for key in ERS_KEYS},
            "checks": [{"kind": str(name), "where": where, "message": "…"} for name, where in checks[kind]],
        }
        changes = {
            "defense": defense,
            "data": {"test": {"images": 3, "classes": 2}},
            "metrics": dict.fromkeys(run._METRICS.values(), 0.5),
            "robustness": robustness,
        }
        bundle.mkdir(parents=True)
        write_json(bundle / CARD, make_card({}).model_copy(update=changes).model_dump(mode="json"))
    monkeypatch.setattr(run, "run_main_job", lambda *_, **__: MainJobResult(folder / "run", bundles))
    monkeypatch.setenv("COLUMNS", "160")
    assert run.main([]) == 0


def test_failed_checks_are_printed_with_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    falling: Checks = [(CheckKind.STILL_FALLING, attack) for attack in ("CA+", "QA+", "TMA")]
    benign: Checks = [*falling, (CheckKind.COLLAPSE, "model"), (CheckKind.NOISE_BEATS_ATTACK, "GTT")]
    print_results(tmp_path, monkeypatch, {"benign": benign, "robust": []})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("caution"))
    assert "the ERS of the benign model" in line
    assert "3 attacks: loss still falling, so attack longer (--evaluation.steps" in line
    assert "model: collapse, so judge it by Recall@1 beside ERS; a lower --benign.learning-rate" in line
    assert "GTT: noise beats the attack, so attack in smaller steps" in line


def test_every_kind_of_check_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(tmp_path, monkeypatch, {"benign": [], "robust": [(kind, "GTM") for kind in CheckKind]})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("caution"))
    assert all(f"GTM: {kind}" in line for kind in CheckKind)


def test_square_brackets_in_names_are_printed_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new [old] x[/]"
    print_results(folder, monkeypatch, {"benign": [], "robust": []}, defense="hm[s]&[/x]")
    printed = capsys.readouterr().out
    assert "hm[s]&[/x]" in printed
    lines = [line for line in printed.splitlines() if "new [old] x[/]" in line]
    assert len(lines) == 9, "two bundles, the log, how to load one, two indexes, a server, an audit, the app"


def test_bundles_outside_the_working_directory_are_printed_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    print_results(Path("../clone"), monkeypatch, {"benign": [], "robust": []})
    assert f"  {tmp_path / 'clone' / 'mine-robust'}\n" in capsys.readouterr().out


def test_models_without_a_failed_check_have_no_caution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(tmp_path, monkeypatch, {"benign": [], "robust": []})
    assert "caution" not in capsys.readouterr().out
