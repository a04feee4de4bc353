"""Audits: the figures of the trainer, resumed and repeated, and refused if invalid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardrank.audit_app.audit.folder import slug
from hardrank.audit_app.audit.identity import OtherAuditError
from hardrank.audit_app.audit.options import AuditOptions, Curve, CurveParameter
from hardrank.audit_app.audit.result import AuditResult, ModelResult
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.errors import AuditError, GalleryError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.progress import StageProgress
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.registry import SCORECARD
from hardrank.trainer.evaluation.blocks import CancelledError
from hardrank.trainer.evaluation.retrieval import evaluate
from hardrank.trainer.evaluation.robustness import RobustnessOptions, bytes_provider, measure_robustness, sample_queries

QUICK = RobustnessOptions(steps=3, bootstrap=50, seed_check=3, sanity_images=2)
AUDIT = AuditOptions(attacked=9, batch=5, robustness=QUICK, worst=2, seed=1)
FEW = replace(AUDIT, attacks=("TMA", "ES"), robustness=replace(QUICK, seed_check=0))


@pytest.fixture(scope="module")
def galleries(served: list[ServedGallery]) -> list[EmbeddedGallery]:
    return [one.embedded for one in served]


@pytest.fixture(scope="module")
def black(stranger: ServedGallery) -> EmbeddedGallery:
    """A plain ONNX file without gradients."""
    return stranger.embedded


@pytest.fixture(scope="module")
def whole(galleries: list[EmbeddedGallery], tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    return run_audit(galleries, AUDIT, tmp_path_factory.mktemp("whole"))


def columns(result: ModelResult) -> dict[str, np.ndarray]:
    return dict(result.card.per_image.columns)


def assert_alike(one: AuditResult, other: AuditResult) -> None:
    for mine, theirs in zip(one.models, other.models, strict=True):
        assert mine.card.to_dict() == theirs.card.to_dict()
        assert columns(mine).keys() == columns(theirs).keys()
        for name, column in columns(mine).items():
            np.testing.assert_array_equal(column, columns(theirs)[name])
        assert mine.benign == theirs.benign
        assert mine.worst_queries == theirs.worst_queries
        assert mine.curves == theirs.curves


def test_figures_equal_those_of_the_trainer(whole: AuditResult, galleries: list[EmbeddedGallery]) -> None:
    rows = sample_queries(64, 9, seed=1)
    for embedded, found in zip(galleries, whole.models, strict=True):
        subject = embedded.subject
        card = measure_robustness(
            subject.gradients,
            bytes_provider(torch.from_numpy(embedded.pixels(np.arange(64)))),
            embedded.embeddings,
            embedded.labels,
            rows,
            options=QUICK,
            attacks=RobustnessOptions().attacks(),
            seed=1,
            batch=128,
            judge=subject.judge,
        )
        assert found.card.ers == pytest.approx(card.ers, abs=1e-3)
        assert found.card.per_image.rows.tolist() == rows.tolist()
        for name, column in card.per_image.columns.items():
            np.testing.assert_allclose(columns(found)[name], column, atol=2e-3 if column.dtype.kind == "f" else 0)
        assert found.benign == evaluate(embedded.embeddings, embedded.labels, seed=1)
        assert found.method == {"name": "white-box"}
        assert found.queries is None


def test_the_same_seed_gives_the_same_results(galleries: list[EmbeddedGallery], tmp_path: Path) -> None:
    one, other = (run_audit(galleries[:1], FEW, tmp_path / name) for name in ("one", "other"))
    assert_alike(one, other)
    different = run_audit(galleries[:1], replace(FEW, attacks=("ES",), seed=2), tmp_path / "different")
    assert different.models[0].card.per_image.rows.tolist() != one.models[0].card.per_image.rows.tolist()


def test_a_stopped_audit_continues_and_gives_the_same_results(galleries: list[EmbeddedGallery], tmp_path: Path) -> None:
    options = replace(FEW, attacked=5, batch=2, robustness=replace(QUICK, seed_check=2, sanity_images=1))
    whole = run_audit(galleries, options, tmp_path / "whole")
    folder = tmp_path / "stopped"
    seen: list[StageProgress] = []

    def stop() -> bool:
        return any(progress.stage == "attacks on tiny-robust" and progress.done >= 3 for progress in seen)

    with pytest.raises(CancelledError):
        run_audit(galleries, options, folder, on_progress=seen.append, cancel=stop)
    finished = set(folder.rglob("*.npz"))
    assert len(finished) > len(options.attacks) * 2
    stamps = {path: path.stat().st_mtime_ns for path in finished}
    assert_alike(run_audit(galleries, options, folder), whole)
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps
    again = run_audit(galleries, options, folder)
    assert again.models[0].card.passes == whole.models[0].card.passes
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps
    assert_alike(again, whole)


def test_worst_cases_show_what_was_measured(whole: AuditResult) -> None:
    for model in whole.models:
        assert len(model.cases) == 2
        scores = [query.score for query in model.worst_queries]
        assert scores == sorted(scores)
        for case in model.cases:
            change = case.adversarial.astype(int) - case.benign
            assert 0 < np.abs(change).max() <= 8
            np.testing.assert_array_equal(case.benign, model.embedded.pixels(np.array([case.query.row]))[0])
            assert len(case.before) == len(case.after) == 8
            assert case.ranked == 63
            column = columns(model)[f"{case.attack} targets"]
            place = model.card.per_image.rows.tolist().index(case.query.row)
            targets = column[place].tolist()
            assert case.aimed == bool(targets)
            if case.attack in {"QA+", "QA-", "TMA"}:
                assert list(case.tracked) == targets
            if case.attack in {"CA+", "CA-"}:
                assert case.ranked_by == targets[0]
                assert case.tracked == (case.query.row,)
            if case.attack in {"QA+", "CA+"}:
                assert case.tracked_after[0] < case.tracked_before[0]
            assert case.moved > 0.01


def test_curves_fall_with_the_budget(galleries: list[EmbeddedGallery], black: EmbeddedGallery, tmp_path: Path) -> None:
    budgets = Curve(parameter=CurveParameter.EPSILON, values=(1 / 255, 8 / 255, 32 / 255))
    steps = Curve(parameter=CurveParameter.STEPS, values=(1, 6))
    queries = Curve(parameter=CurveParameter.QUERIES, values=(2, 60))
    options = replace(FEW, attacks=("QA+",), curves=(budgets, steps, queries), curve_attacked=4, search={"queries": 20})
    [white] = run_audit(galleries[:1], options, tmp_path / "white").models
    assert [curve.parameter for curve in white.curves] == [CurveParameter.EPSILON, CurveParameter.STEPS]
    [queried] = run_audit([black], options, tmp_path / "black").models
    assert [curve.parameter for curve in queried.curves] == [CurveParameter.EPSILON, CurveParameter.QUERIES]
    for curve in (*white.curves, queried.curves[1]):
        values = [point.score for point in curve.points]
        assert values[-1] < values[0]
        assert curve.attacked == 4
        assert all(point.low <= point.score <= point.high for point in curve.points)


def test_an_onnx_file_is_attacked_by_search_and_queries_are_counted(black: EmbeddedGallery, tmp_path: Path) -> None:
    options = replace(FEW, search={"queries": 40})
    [model] = run_audit([black], options, tmp_path).models
    assert model.method == {"name": "square", "queries": 40, "area": 0.3}
    assert model.queries == 9 * 2 * 40
    assert model.card.passes == model.queries
    assert model.card.figures["TMA"].value > model.card.figures["TMA"].noise
    [again] = run_audit([black], options, tmp_path).models
    assert again.queries == model.queries
    assert again.card.passes == model.card.passes
    euclidean = replace(options, robustness=replace(FEW.robustness, norm=Norm.L2, epsilon=0.5))
    assert euclidean.searched == "nes"


def test_any_method_works_on_any_model(
    galleries: list[EmbeddedGallery], black: EmbeddedGallery, tmp_path: Path
) -> None:
    asked = replace(FEW, attacks=("TMA",), method=SearchMethod.SPSA, search={"queries": 40, "pairs": 4})
    [searched] = run_audit(galleries[:1], asked, tmp_path / "spsa").models
    assert searched.method["name"] == "spsa"
    transfer = replace(FEW, attacks=("TMA",), method=SearchMethod.TRANSFER)
    surrogate: Subject = galleries[0].subject
    [moved] = run_audit([black], transfer, tmp_path / "transfer", surrogate=surrogate).models
    assert moved.method["surrogate"] == "tiny-benign"
    [white] = run_audit(galleries[:1], replace(FEW, attacks=("TMA",)), tmp_path / "white").models
    # It is the same network: what is made for one works on the other.
    assert moved.card.figures["TMA"].value == pytest.approx(white.card.figures["TMA"].value, abs=2e-3)
    with pytest.raises(AuditError, match="needs a surrogate"):
        run_audit([black], transfer, tmp_path / "none")
    with pytest.raises(AuditError, match="needs a surrogate"):
        run_audit([black], FEW, tmp_path / "none", surrogate=surrogate)
    with pytest.raises(AuditError, match="has no gradients"):
        run_audit([black], replace(FEW, method=SearchMethod.WHITE_BOX), tmp_path / "none")


def test_a_folder_contains_one_audit(galleries: list[EmbeddedGallery], tmp_path: Path) -> None:
    run_audit(galleries[:1], replace(FEW, attacks=("TMA",)), tmp_path)
    with pytest.raises(OtherAuditError, match=r"attacks \(TMA → TMA, ES\).*--overwrite"):
        run_audit(galleries[:1], FEW, tmp_path)
    with pytest.raises(OtherAuditError, match=r"steps \(3 → 4\)"):
        run_audit(galleries[:1], replace(FEW, attacks=("TMA",), robustness=replace(FEW.robustness, steps=4)), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written"):
        run_audit(galleries[:1], FEW, tmp_path / "file")


def test_two_audits_do_not_share_a_folder(galleries: list[EmbeddedGallery], tmp_path: Path) -> None:
    caught: list[str] = []

    def second(progress: StageProgress) -> None:
        if not caught:
            with pytest.raises(AuditError, match="another audit is running") as error:
                run_audit(galleries[:1], FEW, tmp_path)
            caught.append(str(error.value))

    run_audit(galleries[:1], FEW, tmp_path, on_progress=second)
    assert caught


def test_one_class_refuses_attacks_that_need_more(
    galleries: list[EmbeddedGallery], gratings: Path, tmp_path: Path
) -> None:
    one = embed_gallery(galleries[0].subject, from_images(gratings / "class-0"))
    with pytest.raises(AttackError, match=r"one class.*--attacks CA\+ CA- QA\+ QA- TMA ES GTT"):
        run_audit([one], replace(FEW, attacks=SCORECARD, attacked=None), tmp_path)
    few = replace(FEW, attacks=("CA+", "CA-", "QA+", "QA-", "TMA", "ES", "GTT"), attacked=None)
    [model] = run_audit([one], few, tmp_path).models
    assert np.isnan(model.card.ers)
    assert model.card.n == 8


def test_classes_of_one_image_are_audited(galleries: list[EmbeddedGallery], gratings: Path, tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    files = [gratings / f"class-{i}" / "0.png" for i in range(8)]
    table.write_text("path,label\n" + "".join(f"{path},c{i}\n" for i, path in enumerate(files)))
    embedded = embed_gallery(galleries[0].subject, from_images(table))
    [model] = run_audit([embedded], replace(FEW, attacked=None), tmp_path / "out").models
    assert model.benign is None


def test_invalid_audits_are_refused(galleries: list[EmbeddedGallery], gratings: Path, tmp_path: Path) -> None:
    other = embed_gallery(galleries[1].subject, from_images(gratings))
    with pytest.raises(GalleryError, match="different galleries"):
        run_audit([galleries[0], other], FEW, tmp_path)
    with pytest.raises(AuditError, match="two models are called"):
        run_audit([galleries[0], galleries[0]], FEW, tmp_path)
    with pytest.raises(AuditError, match="positive whole numbers in increasing order"):
        Curve(parameter=CurveParameter.STEPS, values=(4, 2))
    with pytest.raises(AuditError, match="positive numbers in increasing order"):
        Curve(parameter=CurveParameter.EPSILON, values=())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": ("XX",)}, AttackError, "unknown attack 'XX'"),
        ({"attacks": ("ES", "ES")}, AuditError, "name each once"),
        ({"attacked": 0}, AuditError, "attacked images is 0"),
        ({"batch": 0}, AuditError, "batch and curve_attacked"),
        ({"search": {"sigma": 1.0}}, AttackError, "has no option sigma"),
        ({"transform_images": -1}, AuditError, "-1"),
    ],
)
def test_invalid_options_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(FEW, **changes)


def test_names_become_file_names() -> None:
    assert slug("timm/resnet18") == "timm-resnet18"
    assert slug("../..") == "model"
    assert slug("a" * 200) == "a" * 80
