"""Other threat models in audits: apart from the ten results, with options, a section of the report, and a request."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.command.job import read_job
from hardrank.audit_app.command.summary import print_summary
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.report.files import write_report
from hardrank.audit_app.results.schema import AuditReport, read_report
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.threats import ThreatOptions

QUICK = RobustnessOptions(steps=3, bootstrap=20, seed_check=0, sanity_images=0)
THREATS = ThreatOptions(
    threats=("universal", "patch", "hub"),
    goals=("ES", "TMA"),
    images=4,
    settings={"universal": {"images": 8, "epochs": 1}, "patch": {"places": 1, "area": 0.2}, "hub": {"queries": 10}},
)
AUDIT = AuditOptions(attacks=("TMA",), attacked=6, robustness=QUICK, worst=1, threats=THREATS)


@pytest.fixture(scope="module")
def report(embedded: EmbeddedGallery, tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditReport, Path]:
    out = tmp_path_factory.mktemp("audit")
    result = run_audit([embedded], AUDIT, out)
    return write_report(result, out, command="audit"), out


def test_they_have_a_section_of_their_own(report: tuple[AuditReport, Path]) -> None:
    [model] = report[0].models
    universal, patch, hub = model.threats
    assert [one.name for one in model.threats] == ["universal", "patch", "hub"]
    assert set(universal.figures) == set(patch.figures) == {"ES:D", "ES:R", "TMA"}
    assert set(hub.figures) == {"HUB"}
    assert {one.n for one in model.threats} == {4}
    assert patch.options["area"] == 0.2
    assert patch.figures["ES:D"].value > max(patch.figures["ES:D"].before, universal.figures["ES:D"].value)
    assert set(model.figures) == {"TMA"}  # not mixed into the results
    page = (report[1] / "report.html").read_text(encoding="utf-8")
    assert 'id="threats"' in page
    assert read_report(report[1]) == report[0]
    without = json.loads((report[1] / "report.json").read_text(encoding="utf-8"))
    del without["models"][0]["threats"], without["settings"]["eot"]  # as in earlier reports
    assert AuditReport.model_validate(without).models[0].threats == []


def test_the_command_prints_them(report: tuple[AuditReport, Path]) -> None:
    console = Console(record=True, width=200)
    print_summary(console, report[0], report[1])
    said = console.export_text()
    assert "tiny-benign, hub, 4 images: HUB " in said
    assert "tiny-benign, universal, 4 images: ES:D " in said


def test_the_figures_of_the_scorecard_stay_and_the_journal_continues(
    report: tuple[AuditReport, Path], embedded: EmbeddedGallery, tmp_path: Path
) -> None:
    plain = AuditOptions(attacks=("TMA",), attacked=6, robustness=QUICK, worst=1)
    [model] = run_audit([embedded], plain, tmp_path).models
    assert model.threats == ()
    assert model.card.figures["TMA"].value == pytest.approx(report[0].models[0].figures["TMA"].value, abs=1e-6)
    [again] = run_audit([embedded], AUDIT, report[1]).models
    for entry, result in zip(report[0].models[0].threats, again.threats, strict=True):
        for key, figure in entry.figures.items():
            assert result.card.figures[key].value == pytest.approx(figure.value, abs=1e-6)


def test_a_model_attacked_without_gradients_has_none(embedded: EmbeddedGallery, tmp_path: Path) -> None:
    wide = replace(AUDIT, threats=replace(THREATS, settings={"hub": {"k": 200}}))
    with pytest.raises(AttackError, match="lower k"):  # before anything is attacked
        run_audit([embedded], wide, tmp_path / "wide")
    assert not (tmp_path / "wide").exists()
    options = AuditOptions(
        attacks=("TMA",),
        attacked=3,
        robustness=QUICK,
        worst=0,
        threats=THREATS,
        method=SearchMethod.SQUARE,
        search={"queries": 4},
    )
    report = write_report(run_audit([embedded], options, tmp_path), tmp_path, command="audit")
    assert report.models[0].threats == []
    assert any("follow gradients" in caution for caution in report.cautions)


def test_options_of_the_command(gratings: Path) -> None:
    base = ["--models", "a", "--images", str(gratings), "--out", "out", "--threats", "patch", "hub"]
    more = ["--threat-goals", "ES", "--threat-options", "patch.area=0.1", "patch.location=center", "hub.k=5"]
    request = read_job([*base, *more], description="").request
    assert AuditRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    found = request.options.threats
    assert (found.threats, found.goals, found.images) == (("patch", "hub"), ("ES",), 100)
    assert found.make("patch").area == 0.1
    assert found.make("patch").location == "center"
    assert found.make("hub").k == 5
    for wrong in ("area=0.1", "patches.area=0.1", "patch.size=3", "patch.area=x"):
        with pytest.raises(AuditError):
            read_job([*base, "--threat-options", wrong], description="")
    with pytest.raises(AttackError, match="unknown threat model 'hubs'"):
        read_job([*base[:-2], "hubs"], description="")
    with pytest.raises(AuditError, match="HUB is measured apart"):
        AuditOptions(attacks=("HUB",))


def test_gradients_of_random_networks_are_averaged_on_request(gratings: Path) -> None:
    arguments = ["--models", "a", "--images", str(gratings), "--out", "out", "--eot", "4"]
    assert read_job(arguments, description="").request.options.robustness.eot == 4
