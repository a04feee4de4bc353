"""Edits and transforms in audits: the measurements, against plain loops, resumed and repeated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.audit_app.audit.edit_stability import measure_edits, withstood
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.result import ModelResult
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.images.edits import EDITS
from hardrank.audit_app.results.transform_entries import EditPointEntry, EditsEntry, IntervalEntry
from hardrank.models.decoding import decode
from hardrank.models.preprocessing import image_pixels, to_unit
from hardrank.trainer.evaluation.blocks import CancelledError
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions, sample_queries

QUICK = RobustnessOptions(steps=6, bootstrap=20, seed_check=0, sanity_images=0)
AUDIT = AuditOptions(attacks=("TMA", "ES"), attacked=5, robustness=QUICK, worst=0, transform_images=3)


@pytest.fixture(scope="module")
def measured(embedded: EmbeddedGallery, tmp_path_factory: pytest.TempPathFactory) -> ModelResult:
    [model] = run_audit([embedded], AUDIT, tmp_path_factory.mktemp("audit")).models
    return model


def test_edits_equal_a_plain_loop(embedded: EmbeddedGallery, measured: ModelResult) -> None:
    found = measured.edits
    assert found is not None
    rows = sorted(measured.card.per_image.rows.tolist())
    chosen = [rows[i] for i in sample_queries(5, 3, seed=0).tolist()]
    gallery = embedded.embeddings.numpy().astype(np.float64)
    labels = embedded.gallery.labels
    for key, edit in found.edits.items():
        for point in edit.points:
            recall, overlap, moved = [], [], []
            for row in chosen:
                original = decode(embedded.gallery.read(row))
                edited = EDITS[key].apply(original, point.strength)
                pair = [to_unit(image_pixels(one, embedded.subject.preprocessing)) for one in (original, edited)]
                one, other = embedded.subject.judge(torch.from_numpy(np.stack(pair))).double().numpy()
                orders = [np.argsort(np.linalg.norm(gallery - e, axis=1)).tolist() for e in (one, other)]
                first = [[i for i in order if i != row][:10] for order in orders]
                recall.append(labels[first[1][0]] == labels[row])
                overlap.append(len(set(first[0]) & set(first[1])) / 10)
                moved.append(np.linalg.norm(one - other))
            assert point.recall_at_1 is not None
            assert point.recall_at_1.value == pytest.approx(np.mean(recall))
            assert point.overlap.value == pytest.approx(np.mean(overlap))
            assert point.moved.value == pytest.approx(np.mean(moved), abs=1e-5)
            assert point.moved.low <= point.moved.value <= point.moved.high
    assert (found.n, found.with_match, found.k) == (3, 3, 10)


def test_an_edit_is_withstood_up_to_the_first_that_is_not() -> None:
    def point(strength: float, recall: float | None, overlap: float) -> EditPointEntry:
        values = [None if v is None else IntervalEntry(value=v, low=v, high=v) for v in (recall, overlap)]
        assert values[1] is not None
        return EditPointEntry(strength=strength, recall_at_1=values[0], overlap=values[1], moved=values[1])

    before = IntervalEntry(value=0.8, low=0.7, high=0.9)
    assert withstood([point(1, 0.8, 0.9), point(2, 0.76, 0.5), point(3, 0.7, 0.5)], before) == 2
    assert withstood([point(1, 0.8, 0.9), point(2, 0.8, 0.49), point(3, 0.8, 0.9)], before) == 1
    assert withstood([point(1, 0.74, 0.9)], before) is None
    assert withstood([point(1, None, 0.9)], None) == 1


def test_png_keeps_an_attack_and_jpeg_weakens_it(measured: ModelResult) -> None:
    found = measured.survival
    assert found is not None
    assert list(found.titles) == ["png", "jpeg", "resize"]
    chosen = sample_queries(5, 3, seed=0).numpy()
    for key, figure in found.figures.items():
        columns = measured.card.per_image.columns
        assert figure.before == pytest.approx(columns[f"{key} before"][chosen].mean())
        # 8 bits lose nothing at whole 255ths, but the attack is repeated in another batch
        assert figure.after["png"].value == pytest.approx(columns[key][chosen].mean(), abs=5e-3)
        if figure.survived["png"] is not None:
            assert figure.survived["png"] == pytest.approx(100)
    moved = found.figures["ES:D"]
    assert moved.after["resize"].value != moved.after["png"].value
    assert 0 < moved.after["jpeg"].value < 2


def measure(embedded: EmbeddedGallery, rows: list[int], folder: Path, *, stop: bool = False) -> EditsEntry:
    """Measure edits; `stop` cancels after the first image."""
    seen: list[int] = []
    return measure_edits(
        embedded,
        torch.tensor(rows),
        seed=0,
        resamples=10,
        journal=Journal(folder),
        report=seen.append,
        cancel=lambda: stop and bool(seen),
    )


def test_finished_images_are_kept(embedded: EmbeddedGallery, tmp_path: Path) -> None:
    rows, folder = [3, 10], tmp_path / "journal"
    with pytest.raises(CancelledError):
        measure(embedded, rows, folder, stop=True)
    [kept] = folder.glob("*.npz")
    stamp = kept.stat().st_mtime_ns
    assert measure(embedded, rows, folder) == measure(embedded, rows, tmp_path / "other")
    assert kept.stat().st_mtime_ns == stamp


def test_without_classes_only_overlap_and_distance_are_measured(
    embedded: EmbeddedGallery, gratings: Path, tmp_path: Path
) -> None:
    gallery = from_images(gratings)
    alone = replace(gallery, labels=np.arange(len(gallery)), classes=tuple(map(str, range(len(gallery)))))
    few = embed_gallery(embedded.subject, alone.without(dict.fromkeys(range(6, len(gallery)), "")))
    found = measure(few, [0], tmp_path)
    assert (found.with_match, found.recall_at_1, found.k) == (0, None, 5)
