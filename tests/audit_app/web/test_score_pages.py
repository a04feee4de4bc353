"""The scorecard and weak spots pages, without a browser."""

import base64
import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.gallery.embedded import embed_galleries
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.report.files import write_report
from hardrank.audit_app.results.schema import read_report
from hardrank.audit_app.run import main
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.audit_app.web import scorecard_page, weak_spots_page
from hardrank.audit_app.web.audit_jobs import AuditJobs
from hardrank.audit_app.web.settings import AUDITS, AppSettings
from hardrank.models.preprocessing import Preprocessing, file_pixels
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from tests.audit_app.apptest import errors, markup, open_app, plain, until, words
from tests.audit_app.galleries import OPTIONS

Tell = Callable[..., None]
pytestmark = pytest.mark.usefixtures("app")

QUICK = AuditOptions(
    attacked=6,
    attacks=("TMA", "ES"),
    worst=1,
    robustness=RobustnessOptions(steps=2, bootstrap=20, seed_check=0, sanity_images=2),
    curves=(Curve(parameter=CurveParameter.EPSILON, values=(1 / 255, 8 / 255)),),
    curve_attacked=2,
)


@pytest.fixture(scope="module")
def done(tiny_zoo: list[Path], few_gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished audit."""
    root = tmp_path_factory.mktemp("audits")
    request = AuditRequest(
        models=tuple(map(str, tiny_zoo)), gallery=GallerySource.at(str(few_gratings)), options=QUICK, loading=OPTIONS
    )
    galleries = embed_galleries(load_subjects(request.models, OPTIONS), from_images(few_gratings))
    result = run_audit(galleries, QUICK, root / request.name)
    write_report(result, root / request.name, command="the app")
    request.write(root / request.name)
    return root


@pytest.fixture
def past(done: Path, app: Tell, tmp_path: Path) -> Path:
    """That audit, as one of the app."""
    root = tmp_path / "past"
    shutil.copytree(done, root)
    app("--audits", str(root))
    return next(root.iterdir())


# ---------------------------------------------------------------------- scorecard


def test_unmeasured_models_are_reported() -> None:
    at = open_app("scorecard")
    assert not errors(at)
    assert "No bundle has measured results" in words(at)


def test_a_past_audit_is_shown_completely(past: Path) -> None:
    at = open_app("scorecard")
    at.selectbox(key="audit.shown").set_value(str(past)).run()
    assert not errors(at)
    drawn, report = markup(at), read_report(past)
    for model in report.models:
        assert model.name in drawn
        for key, figure in model.figures.items():
            assert key in drawn
            assert f"{figure.low:.1f}" in drawn or f"{figure.low:.3f}" in drawn
    assert "Score against the attack budget" in words(at)
    assert drawn.count("<svg") >= 2
    assert "Recall@1" in drawn
    assert all(line in words(at) for line in report.threat_model)
    assert all(escape(line, quote=True) in drawn for line in report.cautions), "in sight, not folded away"
    assert "higher is more robust" in drawn
    assert not re.search(r"0\.\d{4,}", re.sub(r"<svg.*?</svg>", "", drawn)), "no false precision"
    files = {plain(one.proto.label) for one in at.get("download_button")}
    assert files == {"report.html", "report.json", "tiny-benign.csv", "tiny-robust.csv"}


def test_audits_of_the_command_are_shown_with_those_of_the_app(
    done: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done, tmp_path / "audits")
    own = AppSettings().audit_folders
    assert own == (AUDITS, Path("audits"))
    found = AuditJobs(tmp_path / "none", *own[1:]).finished_audits()
    assert [one.folder.name for one in found] == [path.name for path in done.iterdir()]
    assert AppSettings(audits=tmp_path).audit_folders == (tmp_path,), "a folder that is given is the only one"


def test_an_audit_runs_in_the_background_and_is_listed_afterwards(tmp_path: Path) -> None:
    at = open_app("scorecard")
    at.multiselect(key="audit.attacks").set_value(["ES", "TMA"])
    at.number_input(key="audit.attacked").set_value(4)
    at.number_input(key="audit.linf.steps").set_value(2)
    at.number_input(key="audit.seed_check").set_value(0)
    at.number_input(key="audit.bootstrap").set_value(100).run()
    at.button(key="audit.run").click().run()
    assert not errors(at)
    until(at, lambda page: Path(str(page.selectbox(key="audit.shown").value)).name.startswith("tiny-benign"))
    assert not errors(at)
    (folder,) = (tmp_path / "audits").iterdir()
    report = read_report(folder)
    assert list(report.settings.attacks) == ["ES", "TMA"]
    assert report.settings.attacked == 4
    assert [model.name for model in report.models] == ["tiny-benign", "tiny-robust"]
    assert all(model.name in markup(at) for model in report.models)
    assert "2 images" not in at.selectbox(key="audit.shown").options[0]
    assert any("tiny-benign, tiny-robust · 4 images" in one for one in at.selectbox(key="audit.shown").options)


def estimate(at: AppTest) -> list[str]:
    """Return the lines of the estimated duration."""
    return [text for one in at.caption if "images ×" in (text := plain(one.value))]


def test_the_duration_is_estimated_before_the_start_and_follows_the_options() -> None:
    at = open_app("scorecard")
    assert not estimate(at), "nothing is loaded while the form is closed"
    at.session_state["audit.form"] = True
    until(at.run(), lambda page: bool(estimate(page)))
    assert not errors(at)
    first, second = estimate(at)
    assert first.startswith("tiny-benign: 10 attacks × 24 images × 32 steps (white-box), about ")
    assert second.startswith("tiny-robust: 10 attacks × 24 images")
    at.number_input(key="audit.attacked").set_value(4)
    at.number_input(key="audit.linf.steps").set_value(7).run()
    assert estimate(at)[0].startswith("tiny-benign: 10 attacks × 4 images × 7 steps"), "without a new measurement"
    at.multiselect(key="audit.attacks").set_value(["ES"]).run()
    until(at, lambda page: bool(estimate(page)))
    assert estimate(at)[0].startswith("tiny-benign: 1 attack × 4 images")
    at.multiselect(key="audit.attacks").set_value([]).run()
    assert not estimate(at)
    assert at.button(key="audit.run").disabled
    assert any("attack" in one for one in errors(at))


def test_a_stopped_audit_is_resumed(past: Path) -> None:
    wanted = read_report(past)
    (past / "report.json").unlink()
    past = past.rename(past.with_name("renamed"))
    at = open_app("scorecard")
    at.selectbox(key="audit.shown").set_value(str(past)).run()
    assert "is not finished" in words(at)
    at.button(key="audit.resume").click().run()
    until(at, lambda page: (past / "report.json").exists())
    found = read_report(past)
    assert found.models == wanted.models


def test_a_deliberate_stop_is_no_error() -> None:
    at = open_app("scorecard")
    at.number_input(key="audit.linf.steps").set_value(500).run()
    at.button(key="audit.run").click().run()
    until(at, lambda page: bool([button for button in page.button if button.key == "audit.stop"]))
    at.button(key="audit.stop").click().run()
    until(at, lambda page: "was stopped" in words(page))
    assert not errors(at)


def test_invalid_options_are_reported_before_anything_runs(tmp_path: Path) -> None:
    at = open_app("scorecard")
    at.multiselect(key="audit.attacks").set_value([])
    at.button(key="audit.run").click().run()
    assert any("attack" in one for one in errors(at))
    assert not (tmp_path / "audits").exists()
    at.text_input(key="selection.gallery").set_value(str(tmp_path / "nowhere")).run()
    assert any("does not exist" in one for one in errors(at))


def test_a_failed_audit_reports_the_reason(gratings: Path) -> None:
    at = open_app("scorecard")
    at.text_input(key="selection.gallery").set_value(str(gratings / "class-0"))
    at.multiselect(key="audit.attacks").set_value(["LTM"])
    at.button(key="audit.run").click().run()
    until(at, lambda page: bool(page.error))
    assert any("one class" in one for one in errors(at))


def test_a_damaged_report_is_reported_and_the_rest_works(past: Path) -> None:
    (past / "report.json").write_text("{", encoding="utf-8")
    at = open_app("scorecard")
    assert any("damaged" in one for one in at.selectbox(key="audit.shown").options)
    at.selectbox(key="audit.shown").set_value(str(past)).run()
    assert any("is damaged" in one for one in errors(at))


def test_an_unwritable_folder_is_reported(app: Tell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    app("--audits", str(tmp_path / "file" / "audits"))
    at = open_app("scorecard")
    at.number_input(key="audit.attacked").set_value(2).run()
    at.button(key="audit.run").click().run()
    until(at, lambda page: bool(page.error))
    assert any("cannot be written" in one for one in errors(at))


def test_internal_errors_are_logged_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(scorecard_page, "_show", broken)
    monkeypatch.setattr(weak_spots_page, "audit_jobs", broken)
    for page in ("scorecard", "weak_spots"):
        (message,) = errors(open_app(page))
        assert "secret" not in message
    assert "secret" in caplog.text


# ---------------------------------------------------------------------- weak spots


def spots(at: AppTest) -> list[str]:
    """Return the keys of the buttons that open an image in the live attack."""
    return [str(button.key) for button in at.button if str(button.key).startswith("open-query-")]


def opened_id(button: Any) -> str:
    """Return the id of the image that a button opens."""
    return plain(button.help).removeprefix("Open ").removesuffix(" in the live attack")


def open_weakest(at: AppTest) -> str:
    """Open the weakest image in the live attack, and return its id."""
    first = at.button(key=spots(at)[0])
    id = opened_id(first)
    first.click().run()
    at.switch_page("screens/live_attack.py").run()
    assert not errors(at)
    return id


def test_without_an_audit_it_explains_how_to_run_one() -> None:
    at = open_app("weak_spots")
    assert not errors(at)
    assert "Run one on the" in words(at)


def test_the_weakest_images_open_in_the_live_attack(past: Path) -> None:
    at = open_app("weak_spots")
    assert not errors(at)
    assert len(spots(at)) == 6
    assert "Weakest images" in words(at)
    assert "Only 6 images were attacked" in words(at)
    assert re.search(r"score (≤\u202f)?\d+\.\d", words(at)), "with a decimal"
    at.selectbox(key="weak.key").set_value("ES:D").run()
    assert not errors(at)
    id = open_weakest(at)
    assert at.selectbox(key="live.attack").value == "ES"
    assert at.slider(key="live.epsilon.linf").value == 8
    assert at.slider(key="live.alpha.linf").value == pytest.approx(255 * QUICK.robustness.alpha)
    assert at.session_state["chosen_images"].victim.id == id
    assert id.split("/")[0].split("~")[0] in markup(at)


def pictures(at: AppTest) -> list[bytes]:
    """Return the PNGs of the images, in order."""
    drawn = (re.search(r'<img src="data:image/png;base64,([^"]+)"', one.proto.body) for one in at.get("html"))
    return [base64.b64decode(found[1]) for found in drawn if found]


@pytest.fixture(scope="module")
def by_command(tiny_zoo: list[Path], few_gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit by the command, with paths relative to its working directory."""
    there = tmp_path_factory.mktemp("there")
    (there / "images").symlink_to(few_gratings)
    (there / "zoo").symlink_to(tiny_zoo[0].parent)
    asked = ["--models", "zoo/tiny-benign", "Strong=zoo/tiny-robust", "--images", "images", "--out", "audits/mine"]
    quick = ["--attacks", "TMA", "ES", "--attacked", "6", "--steps", "2", "--seed-check", "0", "--bootstrap", "20"]
    checks = ["--sanity-images", "2", "--strong-images", "0"]
    with contextlib.chdir(there):
        assert main([*asked, *quick, *checks, "--worst", "1", "--device", "cpu", "--threads", "1"]) == 0
    return there / "audits" / "mine"


def test_an_audit_by_the_command_shows_its_images(by_command: Path, few_gratings: Path, app: Tell) -> None:
    app("--audits", str(by_command.parent))
    at = open_app("weak_spots")
    assert not errors(at)
    ids = [opened_id(at.button(key=key)) for key in spots(at)]
    assert len(ids) == 6
    gallery = from_images(few_gratings)
    pre = Preprocessing.from_dict(read_report(by_command).models[0].preprocessing)
    wanted = [encode_png(file_pixels(gallery.read(gallery.row(id)), pre)) for id in ids]
    assert pictures(at)[:6] == wanted
    at.selectbox(key="weak.model").set_value("Strong").run()
    id = open_weakest(at)
    assert at.session_state["chosen_images"].victim.id == id
    assert at.multiselect(key="selection.models").value == [
        str(by_command.parents[1] / "zoo" / "tiny-benign"),
        f"Strong={by_command.parents[1] / 'zoo' / 'tiny-robust'}",
    ]
    assert at.session_state["opened_selection"].loading == OPTIONS


def test_shared_files_contain_no_paths_of_this_machine(by_command: Path) -> None:
    files = [path for path in by_command.iterdir() if path.name.startswith("report") or path.suffix == ".csv"]
    assert {path.name for path in files} == {"report.json", "report.html", "tiny-benign.csv", "Strong.csv"}
    for path in files:
        assert str(by_command.parents[1]) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("norm", "epsilon", "field", "value"),
    [("l2", 0.5, "live.epsilon.l2.l2", 0.5), ("linf", 64 / 255, "live.epsilon.linf", 32)],
)
def test_the_live_attack_takes_over_the_budget_of_the_audit(
    past: Path, norm: str, epsilon: float, field: str, value: float
) -> None:
    report = read_report(past)
    settings = report.settings.model_copy(update={"norm": norm, "epsilon": epsilon})
    (past / "report.json").write_text(report.model_copy(update={"settings": settings}).model_dump_json())
    at = open_app("weak_spots")
    assert ("ε 0.5 (L2)" if norm == "l2" else "ε 64/255") in at.selectbox(key="weak.audit").options[0]
    open_weakest(at)
    fields = {one.key: one.value for one in [*at.number_input, *at.slider]}
    assert fields[field] == value


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("moved", "is neither a folder"),
        ("shrunk", "has changed since"),
        ("command", "is missing"),
        ("table", "cannot be read"),
    ],
)
def test_missing_and_changed_files_are_reported(
    past: Path, damage: str, expected: str, few_gratings: Path, tmp_path: Path
) -> None:
    gallery = tmp_path / "gallery"
    shutil.copytree(few_gratings, gallery)
    request = AuditRequest(models=("x",), gallery=GallerySource.at(str(gallery)), options=replace(QUICK, seed=1))
    request.write(past)
    if damage == "moved":
        shutil.rmtree(gallery)
    elif damage == "shrunk":
        shutil.rmtree(gallery / "class-0")
    elif damage == "command":
        (past / "request.json").unlink()
    else:
        (past / "tiny-benign.csv").write_text("id\nx\n", encoding="utf-8")
    at = open_app("weak_spots")
    assert any(expected in one for one in errors(at))
    assert bool(spots(at)) == (damage != "table")
    assert not pictures(at)
    assert all(at.button(key=key).disabled for key in spots(at))
