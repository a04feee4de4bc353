"""The estimated duration of an audit, time budgets, and the progress of the whole audit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardrank.audit_app.audit.arguments import read_duration
from hardrank.audit_app.audit.estimate import AuditEstimate, AuditPart, ModelPace, estimate_audit, pass_duration
from hardrank.audit_app.audit.options import AuditOptions, CertificateOptions, Curve, CurveParameter
from hardrank.audit_app.audit.progress import MINUTES_LEFT, SHARE, AuditProgress
from hardrank.audit_app.audit.request import AuditRequest
from hardrank.audit_app.audit.sequence import PreparedAudit, prepare_audit
from hardrank.audit_app.audit.time_budget import (
    BLACK_BOX_BUDGET_S,
    FEWEST_IMAGES,
    FEWEST_QUERIES,
    describe_reduction,
    fit_to_budget,
)
from hardrank.audit_app.blackbox.square import SquareSearch
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_galleries
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.source import GallerySource
from hardrank.audit_app.images.edits import EDIT_COUNT
from hardrank.audit_app.report.build import make_report
from hardrank.audit_app.subjects.loading import load_subjects
from hardrank.models.progress import StageProgress
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.evaluation.sanity import LARGE_STEPS, SEARCH_QUERIES
from hardrank.trainer.evaluation.threats import ThreatOptions
from tests.audit_app.galleries import OPTIONS
from tests.audit_app.onnx_graphs import write_quantized

AUDIT = AuditOptions(
    attacks=("ES", "TMA"),
    attacked=500,
    worst=0,
    robustness=RobustnessOptions(steps=10, seed_check=0, sanity_images=0),
)
WHITE = ModelPace(name="white", method="white-box", search=None, seconds={"ES": 0.001, "TMA": 0.002})
BLACK = ModelPace(name="black", method="square", search=SquareSearch(queries=1000), seconds={"ES": 0.001, "TMA": 0.002})


def estimated(*models: ModelPace, options: AuditOptions = AUDIT) -> AuditEstimate:
    return AuditEstimate(options=options, attacked=options.attacked or 0, models=models)


def test_the_duration_counts_every_part() -> None:
    assert estimated(WHITE).seconds == pytest.approx(500 * 10 * 0.003)
    assert estimated(BLACK).seconds == pytest.approx(500 * 1000 * 0.003)
    assert estimated(WHITE, BLACK).seconds == pytest.approx(500 * 1010 * 0.003)
    robustness = RobustnessOptions(steps=10, restarts=2, seed_check=32, sanity_images=16)
    curve = Curve(parameter=CurveParameter.STEPS, values=(4.0, 8.0))
    options = replace(AUDIT, robustness=robustness, curves=(curve,), worst=3, transform_images=100)
    options = replace(options, certificates=CertificateOptions(images=7, samples=200))
    threats = ThreatOptions(threats=("universal", "patch", "hub"), goals=("ES", "TMA"), images=10)
    options = replace(options, threats=threats)
    parts = estimated(WHITE, options=options).parts()
    assert parts == {
        ("white", AuditPart.ATTACKS): pytest.approx(500 * 20 * 0.003),
        ("white", AuditPart.CHECKS): pytest.approx(32 * 20 * 0.003 + 16 * 0.002 * (LARGE_STEPS + SEARCH_QUERIES)),
        ("white", AuditPart.STRONG): 0,
        ("white", AuditPart.CURVES): pytest.approx(50 * 12 * 0.003),
        ("white", AuditPart.TRANSFORMS): pytest.approx(100 * (20 * 0.003 + EDIT_COUNT * 0.002 / 3)),
        ("white", AuditPart.CERTIFICATES): pytest.approx(7 * (200 + 100) * 2 * 0.002 / 3),
        ("white", AuditPart.THREATS): pytest.approx((2 * 100 * 20 + 2 * 10 * 20 * 3 + 10 * 20) * 0.002),
        ("white", AuditPart.WORST_CASES): pytest.approx(3 * 20 * 0.002),
    }


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_stronger_attacks_count_with_their_searches(restarts: int) -> None:
    robustness = RobustnessOptions(steps=32, seed_check=0, sanity_images=0, strong_images=8, strong_restarts=restarts)
    options = replace(AUDIT, robustness=robustness)
    found = estimated(WHITE, options=options).parts()["white", AuditPart.STRONG]
    # APGD with 50 steps for each attack and start, and MARGIN with 100 steps from two starts more.
    each = restarts * 50 * 0.003 + (restarts + 2) * 100 * 0.0015
    assert found == pytest.approx(8 * each)
    assert estimated(BLACK, options=options).parts()["black", AuditPart.STRONG] == 0
    with_margin = replace(WHITE, seconds={**WHITE.seconds, "MARGIN": 1.0})  # measured for all of its targets
    alike = replace(options, attacks=("ES", "TMA", "MARGIN"))
    assert estimated(with_margin, options=alike).parts()["white", AuditPart.STRONG] == pytest.approx(8 * each)


def test_a_measured_pace_serves_for_other_options() -> None:
    other = replace(AUDIT, attacked=1000, robustness=replace(AUDIT.robustness, steps=20))
    found = estimated(WHITE).with_options(other, 200)
    assert found.attacked == 200
    assert found.seconds == pytest.approx(200 * 20 * 0.003)
    assert estimated(WHITE).with_options(replace(other, attacked=None), 300).attacked == 300


def test_a_budget_reduces_images_first_and_then_queries() -> None:
    whole = estimated(WHITE)
    assert fit_to_budget(whole, 1e6) == whole
    fitted = fit_to_budget(whole, 3.01)
    assert fitted.attacked == fitted.options.attacked == 100
    assert fit_to_budget(whole, 0.301).attacked == 10

    black = fit_to_budget(estimated(BLACK), 601)
    assert (black.attacked, black.options.search) == (200, {})
    black = fit_to_budget(estimated(BLACK), 60.01)
    assert black.attacked == FEWEST_IMAGES
    assert black.options.search == {"queries": 400}
    assert black.models[0].search == SquareSearch(queries=400)
    black = fit_to_budget(estimated(BLACK), 6.01)
    assert (black.attacked, black.options.search) == (20, {"queries": FEWEST_QUERIES})
    assert fit_to_budget(estimated(BLACK), 1e-6).attacked == 2  # there is no smaller audit
    for budget in (1.0, 7.0, 90.0, 1000.0):
        assert fit_to_budget(estimated(WHITE, BLACK), budget).seconds <= budget


def test_a_budget_reduces_the_checks_with_the_images() -> None:
    options = replace(AUDIT, robustness=RobustnessOptions(steps=10))
    fitted = fit_to_budget(estimated(WHITE, options=options), 3.0)
    assert 20 <= fitted.attacked < 100
    assert fitted.options.robustness.seed_check == fitted.attacked // 4
    assert fitted.options.robustness.sanity_images == fitted.attacked // 4
    (sentence,) = describe_reduction(options, fitted.options, 3, items=500)
    assert f"checks used at most {fitted.attacked // 4}" in sentence


def test_what_was_reduced_is_stated() -> None:
    fitted = fit_to_budget(estimated(BLACK), 60.01)
    (sentence,) = describe_reduction(AUDIT, fitted.options, 60, items=300)
    assert "time budget of 60 s" in sentence
    assert "50 images were attacked instead of 300" in sentence
    assert "400 queries per image and attack instead of 1000" in sentence
    assert describe_reduction(AUDIT, AUDIT, 60, items=300) == ()


def test_the_plan_names_attacks_images_and_steps() -> None:
    first, second, total = estimated(WHITE, BLACK).lines()
    assert first == "white: 2 attacks × 500 images × 10 steps (white-box), about 15 s"
    assert second == "black: 2 attacks × 500 images × 1000 queries (square), about 25 min"
    assert total == "in total about 25 min"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3m", "0s", "nan", "inf", "ten minutes"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(AuditError, match="invalid duration"):
        read_duration(text)


@pytest.fixture(scope="module")
def galleries(tiny_zoo: list[Path], gratings: Path, tmp_path_factory: pytest.TempPathFactory) -> list[EmbeddedGallery]:
    """A bundle, and an ONNX file without gradients."""
    file = write_quantized(tmp_path_factory.mktemp("onnx") / "plain.onnx")
    return embed_galleries(load_subjects([str(tiny_zoo[1]), str(file)], OPTIONS), from_images(gratings))


@pytest.fixture(scope="module")
def source(gratings: Path) -> GallerySource:
    return GallerySource.at(str(gratings))


def test_the_pace_is_measured_with_few_passes(galleries: list[EmbeddedGallery]) -> None:
    plain = galleries[1]
    asked = 0

    def judge(images: Tensor) -> Tensor:
        nonlocal asked
        asked += len(images)
        return plain.subject.judge(images)

    counted = replace(plain, subject=replace(plain.subject, judge=judge))
    found = estimate_audit([galleries[0], counted], replace(AUDIT, attacked=40))
    assert found.attacked == 40
    assert [model.unit for model in found.models] == ["steps", "queries"]
    assert all(seconds > 0 for model in found.models for seconds in model.seconds.values())
    assert 0 < asked < 40 * 1000 / 100


def test_a_budgeted_audit_keeps_its_numbers_when_it_continues(
    galleries: list[EmbeddedGallery], source: GallerySource, tmp_path: Path
) -> None:
    options = replace(AUDIT, robustness=replace(AUDIT.robustness, steps=2, bootstrap=20))
    request = AuditRequest(models=("timm/m",), gallery=source, options=options, time_budget=1e-9)
    audit = PreparedAudit(request=request, galleries=(galleries[0],), surrogate=None)
    first = audit.planned(tmp_path)
    assert first.request.options.attacked == 2
    assert first.request.requested == request
    result = first.run(tmp_path)
    assert result.attacked == 2
    assert make_report(result, command="").cautions[0].startswith("To fit the time budget of 0 s, 2 images")
    written = json.loads((tmp_path / "request.json").read_text())
    written["options"]["attacked"] = 3  # as if the machine had been faster then
    (tmp_path / "request.json").write_text(json.dumps(written))
    assert audit.planned(tmp_path).request.options.attacked == 3
    other = replace(audit, request=replace(request, time_budget=1e6))
    assert other.planned(tmp_path).request.options.attacked == 500


def test_searches_have_a_budget_by_default(galleries: list[EmbeddedGallery], source: GallerySource) -> None:
    request = AuditRequest(models=("timm/m",), gallery=source, options=replace(AUDIT, attacked=4))
    audit = PreparedAudit(request=request, galleries=tuple(galleries), surrogate=None)
    assert audit.planned(default_budget=True).request.time_budget == BLACK_BOX_BUDGET_S
    assert audit.planned().request.time_budget is None
    white = replace(audit, galleries=(galleries[0],))
    assert white.planned(default_budget=True).request.time_budget is None
    told = replace(audit, request=replace(request, options=replace(request.options, search={"queries": 50})))
    assert told.planned(default_budget=True).request.time_budget is None


def test_the_share_and_the_time_left_follow_the_estimate() -> None:
    now = 0.0
    seen: list[StageProgress] = []
    progress = AuditProgress(seen.append, estimated(WHITE, BLACK), clock=lambda: now)
    progress.report("white", AuditPart.ATTACKS, "attacks on white", 0, 500)
    assert seen[-1].measures == {SHARE: 0}
    assert seen[-1].whole == "audit 0 %"
    now = 60.0
    progress.report("black", AuditPart.ATTACKS, "attacks on black", 250, 500)
    expected = (10 + 500) / 1010
    assert seen[-1].measures[SHARE] == int(100 * expected)
    assert seen[-1].measures[MINUTES_LEFT] == pytest.approx((1 - expected) / expected)
    assert seen[-1].whole == "audit 50 %, about 59 s left"
    AuditProgress(seen.append, None).report("white", AuditPart.ATTACKS, "attacks", 1, 2)
    assert seen[-1].measures == {}


def test_the_fastest_of_several_steps_counts(galleries: list[EmbeddedGallery]) -> None:
    times = iter([0.0, 9.0, 10.0, 139.0, 140.0, 142.0, 150.0, 153.0])  # the first prepares; one is delayed by others
    subject, images = galleries[0].subject, galleries[0].images(torch.tensor([0]))
    assert pass_duration(subject, images, clock=lambda: next(times)) == 2.0


def test_progress_covers_the_whole_audit(tiny_zoo: list[Path], source: GallerySource, tmp_path: Path) -> None:
    robustness = RobustnessOptions(steps=3, bootstrap=20, seed_check=4, sanity_images=4)
    curve = Curve(parameter=CurveParameter.EPSILON, values=(0.01, 0.02))
    options = replace(AUDIT, attacked=6, robustness=robustness, worst=2, curves=(curve,), curve_attacked=3)
    request = AuditRequest(models=(str(tiny_zoo[1]),), gallery=source, options=options, loading=OPTIONS)
    seen: list[StageProgress] = []
    audit = prepare_audit(request, on_progress=seen.append).planned()
    audit.run(tmp_path, on_progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert [(one.done, one.total) for one in seen if one.stage == "models"] == [(0, 1), (1, 1)]
    name = "tiny-robust"
    assert stages[:3] == ["models", "images", f"embeddings {name}"]
    attacking = [f"attacks on {name}", f"sanity runs on {name}", f"attacks with another seed on {name}"]
    assert [stage for stage in stages if stage in attacking] == attacking
    assert stages[-1] == f"worst cases of {name}"
    shares = [progress.measures[SHARE] for progress in seen if SHARE in progress.measures]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)
    steps = [progress for progress in seen if progress.stage in attacking[1:]]
    assert len(steps) > 50
    assert all(one.done <= one.total for one in steps)


def test_a_time_budget_reduces_what_is_transformed_and_certified() -> None:
    options = replace(AUDIT, transform_images=100, certificates=CertificateOptions(images=90))
    whole = estimated(WHITE, options=options)
    fitted = fit_to_budget(whole, whole.seconds / 10).options
    assert fitted.certificates is not None
    assert 1 <= fitted.certificates.images < 90
    assert 1 <= fitted.transform_images < 100
    [sentence] = describe_reduction(options, fitted, 60, items=1000)
    assert f"{fitted.certificates.images} were certified instead of 90" in sentence
    assert f"{fitted.transform_images} were transformed and edited instead of 100" in sentence
