"""Certificates in audits: what is reported, kept and refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardrank.audit_app.audit.certified_recall import MULTIPLES, measure_certificates
from hardrank.audit_app.audit.options import AuditOptions, CertificateOptions
from hardrank.audit_app.audit.runner import run_audit
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.embedded import EmbeddedGallery, embed_gallery
from hardrank.audit_app.gallery.image_gallery import from_images
from hardrank.audit_app.report.build import make_report
from hardrank.audit_app.results.certificate_entries import CertificateEntry
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.evaluation.blocks import CancelledError
from hardrank.trainer.evaluation.certificates import certify_image
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions

FEW = CertificateOptions(images=3, sigmas=(0.05, 0.2), samples=40, alpha=0.05)


def test_the_report_has_the_share_of_images_with_at_least_each_radius(
    embedded: EmbeddedGallery, tmp_path: Path
) -> None:
    robustness = RobustnessOptions(steps=1, bootstrap=20, seed_check=0, sanity_images=0)
    options = AuditOptions(attacks=("ES",), attacked=3, robustness=robustness, worst=0, seed=2, certificates=FEW)
    result = run_audit([embedded], options, tmp_path)
    [model] = make_report(result, command="").models
    assert [found.sigma for found in model.certificates] == [0.05, 0.2]
    rows = result.models[0].card.per_image.rows.tolist()
    for found in model.certificates:
        assert (found.n, found.samples, found.alpha) == (3, 40, 0.05)
        radii = [
            certify_image(
                embedded.subject.judge,
                embedded.images(torch.tensor([row]))[0],
                embedded.tensors,
                row,
                FEW.smoothing(found.sigma),
                seed=2,
            )
            for row in rows
        ]
        for point, multiple in zip(found.points, MULTIPLES, strict=True):
            assert point.radius == pytest.approx(multiple * found.sigma)
            for name, interval in (("vote", point.vote), ("embedding", point.embedding)):
                reached = [getattr(one, name) > 0 and getattr(one, name) >= point.radius for one in radii]
                assert interval.value == pytest.approx(np.mean(reached)), name
        votes = [point.vote.value for point in found.points]
        assert votes == sorted(votes, reverse=True)


def measure(
    embedded: EmbeddedGallery,
    rows: list[int],
    options: CertificateOptions,
    folder: Path,
    *,
    report: Callable[[int], None] = lambda done: None,
    cancel: Callable[[], bool] = lambda: False,
) -> tuple[CertificateEntry, ...]:
    return measure_certificates(
        embedded,
        torch.tensor(rows),
        options,
        seed=0,
        batch=64,
        resamples=10,
        journal=lambda name: Journal(folder / name),
        report=report,
        cancel=cancel,
    )


def test_finished_images_are_kept(embedded: EmbeddedGallery, tmp_path: Path) -> None:
    seen: list[int] = []
    rows, folder = [0, 9, 30], tmp_path / "journal"
    with pytest.raises(CancelledError):
        measure(embedded, rows, FEW, folder, report=seen.append, cancel=lambda: len(seen) >= 4)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(kept) == 4
    seen.clear()
    assert measure(embedded, rows, FEW, folder, report=seen.append) == measure(embedded, rows, FEW, tmp_path / "other")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert seen == [1, 2, 3, 4, 5, 6]


def test_images_alone_in_their_class_are_left_out(embedded: EmbeddedGallery, gratings: Path, tmp_path: Path) -> None:
    gallery = from_images(gratings)
    three = replace(gallery, ids=gallery.ids[:3], labels=np.array([0, 1, 1]), classes=("a", "b"))
    few, options = embed_gallery(embedded.subject, three), replace(FEW, sigmas=(0.1,))
    assert [one.n for one in measure(few, [0, 1], options, tmp_path)] == [1]
    assert measure(few, [0], options, tmp_path) == ()


def test_invalid_options_are_refused() -> None:
    with pytest.raises(AuditError, match="0 images"):
        CertificateOptions(images=0)
    with pytest.raises(AuditError, match="each σ once"):
        CertificateOptions(sigmas=(0.1, 0.1))
    with pytest.raises(AttackError, match="σ is -1"):
        CertificateOptions(sigmas=(-1,))
