"""A folder holds the results of one audit: others are refused, and what differs is named."""

from pathlib import Path
from typing import Any

import pytest

from hardrank.audit_app.audit.identity import AuditIdentity, ModelIdentity, OtherAuditError, claim_folder
from hardrank.audit_app.results.schema import AuditSettings, GalleryEntry
from hardrank.models.preprocessing import Preprocessing
from tests.audit_app.reports import make_made_up, make_model, make_settings

OTHER: dict[str, Any] = {
    "attacks": {"ES": {}, "QA+": {}},
    "attacked": 7,
    "seed": 1,
    "norm": "l2",
    "epsilon": 0.5,
    "alpha": 0.25,
    "steps": 8,
    "engine": "apgd",
    "random_start": True,
    "restarts": 2,
    "eot": 4,
    "method": "nes",
    "search": {"queries": 5},
    "surrogate": "2" * 64,
    "gallery": GalleryEntry(name="b", sha256="f" * 64, items=9, classes=2, left_out=[]),
}
"""Another value of each setting."""


def identity(*, name: str = "robust", sha256: str = "1" * 64, crop: int = 32, **changes: Any) -> AuditIdentity:
    model = ModelIdentity(name=name, sha256=sha256, preprocessing=Preprocessing(resize=36, crop=crop).to_dict())
    return AuditIdentity(settings=make_settings(**changes), models=(model,))


def test_every_setting_has_another_value_here() -> None:
    assert set(OTHER) == set(AuditSettings.model_fields)


@pytest.mark.parametrize("field", OTHER)
def test_another_setting_is_refused_and_named(field: str, tmp_path: Path) -> None:
    claim_folder(tmp_path, identity())
    claim_folder(tmp_path, identity())  # the same audit continues
    with pytest.raises(OtherAuditError, match="--overwrite") as refused:
        claim_folder(tmp_path, identity(**{field: OTHER[field]}))
    assert refused.value.fields == (field,)
    assert f"{field} (" in str(refused.value)
    claim_folder(tmp_path, identity())  # nothing was changed


@pytest.mark.parametrize("change", [{"name": "benign"}, {"sha256": "3" * 64}, {"crop": 24}])
def test_another_model_is_refused_and_named(change: dict[str, Any], tmp_path: Path) -> None:
    claim_folder(tmp_path, identity())
    with pytest.raises(OtherAuditError, match="models") as refused:
        claim_folder(tmp_path, identity(**change))
    assert refused.value.fields == ("models",)


def test_a_report_without_a_journal_is_protected_too(tmp_path: Path) -> None:
    """Journals can be deleted."""
    report = make_made_up(make_model("robust"))
    (tmp_path / "report.json").write_text(report.model_dump_json())
    (tmp_path / "robust.csv").write_text("id")
    (tmp_path / "robust.entry.json").write_text("{}")
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OtherAuditError, match=r"seed \(0 → 1\)") as refused:
        claim_folder(tmp_path, identity(seed=1))
    assert refused.value.fields == ("seed",)
    claim_folder(tmp_path, identity(seed=1), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "journal"}
    claim_folder(tmp_path, identity(seed=1))
