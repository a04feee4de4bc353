"""Made-up reports, for what only reads them."""

from datetime import UTC, datetime
from typing import Any

from hardrank.audit_app.results.schema import (
    AuditReport,
    AuditSettings,
    BenignEntry,
    FigureEntry,
    GalleryEntry,
    ModelEntry,
    StrongEntry,
    StrongFigureEntry,
    StrongSettingEntry,
)
from hardrank.models.preprocessing import Preprocessing


def make_settings(**changes: Any) -> AuditSettings:
    values: dict[str, Any] = {
        "attacks": {"ES": {}},
        "attacked": 500,
        "seed": 0,
        "norm": "linf",
        "epsilon": 8 / 255,
        "alpha": 3 / 255,
        "steps": 32,
        "engine": "pgd",
        "random_start": False,
        "restarts": 1,
        "method": "auto",
        "search": {},
        "surrogate": None,
        "gallery": GalleryEntry(name="a", sha256="0" * 64, items=1000, classes=10, left_out=[]),
    }
    return AuditSettings(**{**values, **changes})


def make_model(name: str = "robust", *, ers: float | None = 40.0, recall: float = 0.5, **changes: Any) -> ModelEntry:
    figure = FigureEntry(
        value=30.0,
        low=25.0,
        high=35.0,
        before=50.0,
        noise=49.0,
        score=60.0,
        success=40.0,
        unit="%",
        help="",
        attacked=0.0,
        resisted=50.0,
    )
    benign = BenignEntry(
        recall_at_1=recall,
        recall_at_2=0.6,
        mean_ap=0.3,
        map_at_r=0.2,
        nmi=0.4,
        mean_cosine=0.1,
        queries=1000,
        without_match=0,
    )
    values: dict[str, Any] = {
        "name": name,
        "kind": "bundle",
        "source": name,
        "sha256": "1" * 64,
        "dimension": 16,
        "preprocessing": Preprocessing(resize=36, crop=32).to_dict(),
        "runtime": "ONNX Runtime (cpu)",
        "precision": "float32",
        "defense": None,
        "recipe": None,
        "run_id": None,
        "notes": [],
        "method": {"name": "white-box"},
        "upper_bound": False,
        "benign": benign,
        "ers": ers,
        "ers_low": None if ers is None else ers - 2,
        "ers_high": None if ers is None else ers + 2,
        "ars": 50.0,
        "score": 40.0,
        "worst_recall": 10.0,
        "worst_score": 5.0,
        "recall_at_1": 50.0,
        "n": 500,
        "mean_cosine": 0.1,
        "figures": {"QA+": figure},
        "checks": [],
        "seeds": [0],
        "queries": None,
        "curves": [],
        "worst_queries": [],
        "worst_classes": [],
        "per_image": "robust.csv",
    }
    return ModelEntry(**{**values, **changes})


def make_strong(**changes: Any) -> StrongEntry:
    values: dict[str, Any] = {
        "ers": 38.2,
        "ers_low": 35.0,
        "ers_high": 41.0,
        "protocol_ers": 49.8,
        "worst_case_recall": 3.1,
        "figures": {"QA+": StrongFigureEntry(value=20.0, score=40.0, protocol=30.0)},
        "n": 32,
        "gradients_per_image": 700.0,
        "seconds": 60.0,
        "settings": [StrongSettingEntry(name="QA+, APGD, 50 steps", images=32, gradients=1600, found={"QA+": 20})],
        "options": {"images": 32, "restarts": 1},
    }
    return StrongEntry(**{**values, **changes})


def make_made_up(*models: ModelEntry, **settings: Any) -> AuditReport:
    return AuditReport(
        created=datetime(2026, 1, 1, tzinfo=UTC),
        command="",
        threat_model=[],
        settings=make_settings(**settings),
        models=list(models) or [make_model()],
        cautions=[],
        versions={},
        hardware={},
    )
