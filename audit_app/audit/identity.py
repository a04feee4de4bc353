"""What determines the results of an audit; a folder holds the results of one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.request import REQUEST
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.image_gallery import ImageGallery
from hardrank.audit_app.results.gate import describe_difference
from hardrank.audit_app.results.schema import (
    ENTRY_SUFFIX,
    HTML,
    REPORT,
    AuditReport,
    AuditSettings,
    GalleryEntry,
    ReportError,
    read_report,
)
from hardrank.audit_app.subjects.subject import Subject
from hardrank.models.files import write_json
from hardrank.trainer.attacks.options import plain_options

JOURNAL: Final = "journal"
"""Folder of the finished parts, inside the folder of an audit."""
_IDENTITY: Final = "audit.json"


class OtherAuditError(AuditError):
    """A folder holds the results of another audit.

    Attributes:
        fields: Names of what differs: settings, or `models`.
    """

    def __init__(self, message: str, fields: Sequence[str]) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class ModelIdentity(BaseModel):
    """A model under audit."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    preprocessing: dict[str, int | str]


class AuditIdentity(BaseModel):
    """What determines the results of an audit."""

    model_config = ConfigDict(frozen=True)

    settings: AuditSettings
    models: tuple[ModelIdentity, ...]

    def differences(self, other: "AuditIdentity") -> dict[str, str]:
        """Return what differs from `other`, the earlier audit: names of fields with a description for people."""
        found = {
            name: describe_difference(name, self.settings, other.settings)
            for name in self.settings.differences(other.settings)
        }
        if self.models != other.models:
            found["models"] = f"models ({_shown(other.models)} → {_shown(self.models)})"
        return found


def settings_of(
    options: AuditOptions, gallery: ImageGallery, *, attacked: int, surrogate: Subject | None = None
) -> AuditSettings:
    """Return what determines the figures of an audit, besides the models."""
    robustness = options.robustness
    return AuditSettings(
        attacks={name: plain_options(attack) for name, attack in options.build().items()},
        attacked=attacked,
        seed=options.seed,
        norm=str(robustness.norm),
        epsilon=robustness.epsilon,
        alpha=robustness.alpha,
        steps=robustness.steps,
        engine=str(robustness.engine),
        random_start=robustness.random_start,
        restarts=robustness.restarts,
        eot=robustness.eot,
        method=str(options.method),
        search=dict(options.search),
        surrogate=None if surrogate is None else surrogate.sha256,
        gallery=GalleryEntry(
            name=gallery.name,
            sha256=gallery.digest(),
            items=len(gallery),
            classes=gallery.labeled_classes,
            left_out=list(gallery.problems),
        ),
    )


def identity_of(settings: AuditSettings, subjects: Sequence[Subject]) -> AuditIdentity:
    """Return the identity of an audit of `subjects`."""
    models = (
        ModelIdentity(name=one.name, sha256=one.sha256, preprocessing=one.preprocessing.to_dict()) for one in subjects
    )
    return AuditIdentity(settings=settings, models=tuple(models))


def claim_folder(out: Path, identity: AuditIdentity, *, overwrite: bool = False) -> None:
    """Make `out` the folder of one audit.

    Args:
        out: The folder, which exists.
        identity: Of the audit that will write its results there.
        overwrite: Whether to delete the results of another audit.

    Raises:
        OtherAuditError: The folder holds the results of another audit, finished or not, and `overwrite` is false.
    """
    earlier = _identity_in(out)
    if earlier is not None and (differing := identity.differences(earlier)):
        if not overwrite:
            raise OtherAuditError(
                f"{out} holds another audit, which differs in {'; '.join(differing.values())}. Replace it with "
                "--overwrite, or choose another folder with --out",
                list(differing),
            )
        _delete_results(out)
    write_json(out / JOURNAL / _IDENTITY, identity.model_dump(mode="json"))


def _identity_in(out: Path) -> AuditIdentity | None:
    """Read the identity of the audit in a folder, from its journal or its report; None if there is none."""
    try:
        return AuditIdentity.model_validate(json.loads((out / JOURNAL / _IDENTITY).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        report = _report_in(out)
    if report is None:
        return None
    models = (
        ModelIdentity(name=model.name, sha256=model.sha256, preprocessing=model.preprocessing)
        for model in report.models
    )
    return AuditIdentity(settings=report.settings, models=tuple(models))


def _report_in(out: Path) -> AuditReport | None:
    try:
        return read_report(out)
    except ReportError:  # none, or one that is not worth keeping
        return None


def _delete_results(out: Path) -> None:
    report = _report_in(out)
    tables = [] if report is None else [model.per_image for model in report.models]
    entries = [f"{Path(table).stem}{ENTRY_SUFFIX}" for table in tables]
    for name in (REPORT, HTML, REQUEST, *tables, *entries):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / JOURNAL, ignore_errors=True)


def _shown(models: Sequence[Any]) -> str:
    return ", ".join(f"{one.name}, SHA-256 {one.sha256[:8]}…, {one.preprocessing['crop']} px" for one in models)
