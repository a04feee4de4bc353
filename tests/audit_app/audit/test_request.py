"""Requests of audits as files: read back unchanged, and valid in any working directory."""

from pathlib import Path

import pytest

from hardrank.audit_app.audit.options import AuditOptions, CertificateOptions, Curve, CurveParameter
from hardrank.audit_app.audit.request import AuditRequest, read_request
from hardrank.audit_app.blackbox.choice import SearchMethod
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.source import GallerySource, SourceKind
from hardrank.audit_app.subjects.library_models import LibraryWeights
from hardrank.audit_app.subjects.subject import SubjectOptions
from hardrank.trainer.evaluation.robustness import RobustnessOptions


def request(**changes: object) -> AuditRequest:
    values: dict[str, object] = {
        "models": ("models/zoo/demo",),
        "gallery": GallerySource(kind=SourceKind.IMAGES, paths=("images",)),
        **changes,
    }
    return AuditRequest(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(
            models=("a.onnx", "timm/resnet18"),
            gallery=GallerySource(kind=SourceKind.RUN, paths=("runs/x",), data_root="moved"),
            options=AuditOptions(
                attacks=("ES", "TMA"),
                attacked=None,
                robustness=RobustnessOptions(epsilon=4 / 255),
                method=SearchMethod.TRANSFER,
                curves=(Curve(parameter=CurveParameter.STEPS, values=(4, 8)),),
                transform_images=5,
                certificates=CertificateOptions(images=3, sigmas=(0.1, 0.5), samples=50),
            ),
            loading=SubjectOptions(weights=LibraryWeights.RANDOM, resize=40),
            surrogate="b",
        ),
    ],
)
def test_a_request_is_read_back_unchanged(asked: AuditRequest, tmp_path: Path) -> None:
    asked.write(tmp_path)
    assert read_request(tmp_path) == asked


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "other"}, "schema 'other'"),
        ({"models": 3}, "models"),
        ({"gallery": {"kind": "cloud"}}, r"gallery\.kind"),
        ({"options": {"attacked": "many"}}, r"options\.attacked"),
    ],
)
def test_an_invalid_request_is_a_typed_error(change: dict[str, object], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        AuditRequest.from_dict(request().to_dict() | change)


def test_absolute_paths_name_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = request(
        models=("bundle", "mine=./bundle", "model.onnx", "timm/resnet18", "resnet18", "own=resnet18"),
        gallery=GallerySource(kind=SourceKind.RUN, paths=("runs/a b",), data_root="data"),
        surrogate="mine=bundle",
    ).absolute()
    bundle = str(tmp_path / "bundle")
    assert asked.models == (
        *(bundle, f"mine={bundle}", str(tmp_path / "model.onnx")),
        *("timm/resnet18", "resnet18", "own=resnet18"),
    )
    assert asked.gallery == GallerySource(
        kind=SourceKind.RUN, paths=(str(tmp_path / "runs/a b"),), data_root=str(tmp_path / "data")
    )
    assert asked.surrogate == f"mine={bundle}"
    assert asked.absolute() == asked
