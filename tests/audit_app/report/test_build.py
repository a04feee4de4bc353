"""The files of an audit: report.json, the CSV tables, and a self-contained page that escapes all text."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hardrank.audit_app.audit.identity import settings_of
from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.result import AuditResult
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.audit.weak_spots import clipped_scores
from hardrank.audit_app.gallery.embedded import embed_galleries
from hardrank.audit_app.gallery.image_gallery import ImageGallery, from_images
from hardrank.audit_app.report.build import make_report
from hardrank.audit_app.report.files import write_report
from hardrank.audit_app.report.page import render_page
from hardrank.audit_app.results.schema import AuditReport, CheckEntry, ReportError, read_report
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.serving.engine import Device
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from tests.audit_app.onnx_graphs import without_gradients

HOSTILE = "<script>alert('x')</script>\"&{{ 7*7 }}"
"""A name with a script, an end of an attribute, and template syntax."""
OPTIONS = AuditOptions(
    attacks=("QA+", "TMA", "ES"),
    attacked=7,
    robustness=RobustnessOptions(steps=2, bootstrap=30, seed_check=0),
    search={"queries": 20},
    curves=(Curve(parameter=CurveParameter.EPSILON, values=(2 / 255, 8 / 255)),),
    curve_attacked=3,
    worst=3,
)


def renamed(collection: ImageGallery) -> ImageGallery:
    """Return the same images with hostile names."""
    ids = (HOSTILE, *collection.ids[1:])
    classes = tuple(f"{HOSTILE} {name}" for name in collection.classes)
    return replace(collection, ids=ids, classes=classes, problems=(f"{HOSTILE}: not an image",))


@pytest.fixture(scope="module")
def audited(
    tiny_zoo: list[Path], gratings: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AuditResult, AuditReport, Path]:
    """A bundle with a hostile name and an ONNX file without gradients, on hostile images."""
    onnx = without_gradients(tiny_zoo[0] / "model.onnx", tmp_path_factory.mktemp("onnx") / "stranger.onnx")
    benign, stranger = load_subjects(
        [str(tiny_zoo[0]), str(onnx)], SubjectOptions(device=Device.CPU, threads=1, resize=36)
    )
    benign = replace(benign, name=HOSTILE, notes=(HOSTILE,))
    out = tmp_path_factory.mktemp("report")
    scenes = embed_galleries([benign, stranger], renamed(from_images(gratings)))
    result = run_audit(scenes, OPTIONS, out)
    return result, write_report(result, out, command=f"python audit_app/run.py '{HOSTILE}'"), out


class Reader(HTMLParser):
    """Notes every tag, address and piece of text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}:
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_the_report_holds_the_results(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    result, report, out = audited
    assert read_report(out) == report
    assert read_report(out / "report.json") == report
    content = json.loads((out / "report.json").read_text())
    assert content["schema_version"] == "hardrank.audit/1"
    for model, entry in zip(result.models, report.models, strict=True):
        assert entry.sha256 == model.subject.sha256
        assert entry.ers is None
        assert entry.n == 7
        for key, figure in entry.figures.items():
            assert figure.value == model.card.figures[key].value
            assert figure.low <= figure.value <= figure.high
        assert entry.score == pytest.approx(clipped_scores(model.card.per_image, model.card.scales).mean())
        assert [one.row for one in entry.worst_queries] == [one.row for one in model.worst_queries]
        assert [point.at for point in entry.curves[0].points] == [2 / 255, 8 / 255]
    assert report.models[0].queries is None
    assert report.models[1].queries == 7 * 3 * 20
    assert report.models[1].method["name"] == "square"
    assert [entry.upper_bound for entry in report.models] == [False, True]
    assert report.settings.gallery.items == 64
    assert report.settings.attacks["QA+"]["m"] == 1


def test_cautions_list_the_limitations(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    _, report, _ = audited
    said = "\n".join(report.cautions)
    assert "7 images are a small sample" in said
    assert "7 of 64 images were attacked" in said
    assert "stranger was attacked without its gradients" in said
    assert "not all ten results were measured" in said
    assert f"1 file was left out: {HOSTILE}: not an image." in said
    model = "\n".join(report.threat_model)
    assert "ε = 8/255" in model
    assert "(white-box): 2 steps of PGD along the gradient, α = 3/255" in model
    assert "at most 20 queries per image and attack, 420 in total" in model


def test_the_table_has_one_line_per_image(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    result, report, out = audited
    names = [model.per_image for model in report.models]
    assert len(set(names)) == 2
    for model, name in zip(result.models, names, strict=True):
        assert "/" not in name
        with (out / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 7
        assert {row["upper_bound"] for row in rows} == {"true" if name == "stranger.csv" else "false"}
        table = model.card.per_image
        for i, row in enumerate(rows):
            assert int(row["row"]) == table.rows[i]
            assert row["id"] == result.gallery.ids[int(row["row"])]
            assert row["class"] == result.gallery.label(int(row["row"]))
            assert float(row["TMA"]) == table.columns["TMA"][i]
            assert float(row["ES:D noise"]) == table.columns["ES:D noise"][i]


def test_the_page_is_self_contained_and_has_no_scripts(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    page = read_page(audited[2] / "report.html")
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not page.handlers
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    text = (audited[2] / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_names_are_escaped(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    page = read_page(audited[2] / "report.html")
    assert page.text.count(HOSTILE) > 10
    assert "<script" not in (audited[2] / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_every_figure(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    _, report, out = audited
    page = read_page(out / "report.html")
    for model in report.models:
        assert model.sha256 in page.text
        for key, figure in model.figures.items():
            assert key in page.text
            assert f"{figure.value:.1f} %" in page.text or f"{figure.value:.3f}" in page.text
        for query in model.worst_queries:
            assert query.id in page.text
        assert model.per_image in page.text
    for caution in (*report.cautions, *report.threat_model):
        assert caution in page.text
    # Bars of the whole and of the parts, and a curve, for the bundle and for the upper bounds; a radar of the bundle.
    assert page.tags["svg"] == 2 * 3 + 1
    assert page.tags["img"] > 2 * 3 * (3 + 2 * 8)


def test_failed_checks_of_a_kind_take_one_line(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    result, report, _ = audited
    falling = [CheckEntry(kind="loss still falling", where=key, message=f"18 % of {key}") for key in ("CA+", "ES")]
    checks = [falling[0], CheckEntry(kind="collapse", where="cosine", message="all alike"), falling[1]]
    models = [one.model_copy(update={"checks": found}) for one, found in zip(report.models, (checks, []), strict=True)]
    shown = render_page(report.model_copy(update={"models": models}), result)
    assert shown.count("<b>loss still falling</b>") == 1
    assert "<b>loss still falling</b> (CA+, ES): CA+: 18 % of CA+." in shown
    assert "<b>collapse</b> (cosine): all alike." in shown


def test_upper_bounds_are_marked_and_shown_apart(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    _, report, out = audited
    text, page = (out / "report.html").read_text(encoding="utf-8"), read_page(out / "report.html")
    bundle, stranger = report.models
    assert re.findall(r'class="big">([^<]*)', text) == [f"{bundle.score:.1f}", f"≤\u202f{stranger.score:.0f}"]
    charts = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len([chart for chart in charts if 'class="bound"' in chart]) == 2  # hatched bars
    assert not [chart for chart in charts if 'class="bound"' in chart and 'class="fill"' in chart]
    tables = re.findall(r'<table class="results">.*?</table>', text, flags=re.DOTALL)
    assert [("series-0" in table, "series-1" in table) for table in tables] == [(True, False), (False, True)]
    assert "20 queries per image and attack" in page.text
    assert not any(f"{report.settings.steps} steps" in check.message for check in stranger.checks)


def test_the_same_audit_gives_the_same_report(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    result, report, _ = audited
    again = make_report(result, command=report.command)
    assert again.model_copy(update={"created": report.created}) == report


def test_settings_are_compared_by_what_determines_the_figures(audited: tuple[AuditResult, AuditReport, Path]) -> None:
    result, report, _ = audited
    same = settings_of(OPTIONS, replace(result.gallery, name="elsewhere"), attacked=7)
    assert report.settings.differences(same) == []
    other = replace(OPTIONS, seed=3, attacks=("ES",), robustness=replace(OPTIONS.robustness, steps=9, bootstrap=77))
    renamed_too = replace(result.gallery, ids=("x", *result.gallery.ids[1:]))
    found = report.settings.differences(settings_of(other, renamed_too, attacked=7))
    assert found == ["attacks", "seed", "steps", "gallery"]


def test_unreadable_reports_are_refused(tmp_path: Path, audited: tuple[AuditResult, AuditReport, Path]) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(ReportError, match="does not exist"):
        read_report(path)
    path.write_text("{")
    with pytest.raises(ReportError, match="is damaged"):
        read_report(path)
    path.write_text('{"schema_version": "hardrank.audit/2"}')
    with pytest.raises(ReportError, match=r"schema 'hardrank.audit/2'; this version reads hardrank.audit/1"):
        read_report(path)
    content = json.loads((audited[2] / "report.json").read_text())
    content["models"][0]["n"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(ReportError, match=r"does not match the schema: models\.0\.n"):
        read_report(path)


def test_the_documented_schema_is_current() -> None:
    """`python -m hardrank.audit_app.results.schema > docs/audit.schema.json` writes it."""
    documented = Path(__file__).parents[3] / "docs" / "audit.schema.json"
    assert json.loads(documented.read_text(encoding="utf-8")) == AuditReport.model_json_schema()
