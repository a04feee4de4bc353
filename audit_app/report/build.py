"""Turn the result of an audit into a report: the content of report.json."""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from hardrank.audit_app.audit.folder import slug
from hardrank.audit_app.audit.identity import settings_of
from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.result import AuditResult, ModelResult, overall_score
from hardrank.audit_app.gallery.image_gallery import UNLABELLED
from hardrank.audit_app.report.wording import cautions, threat_model
from hardrank.audit_app.results.schema import (
    AuditReport,
    BenignEntry,
    CheckEntry,
    FigureEntry,
    ModelEntry,
    StrongEntry,
    ThreatEntry,
    WeakClassEntry,
    WeakQueryEntry,
)
from hardrank.audit_app.results.scores import figure_entry
from hardrank.trainer.evaluation.scorecard import Scorecard, StrongScore
from hardrank.trainer.evaluation.threats import THREATS, ThreatResult
from hardrank.trainer.runtime.environment import hardware, versions


def make_report(result: AuditResult, *, command: str) -> AuditReport:
    """Build the report of an audit."""
    settings = settings_of(result.options, result.gallery, attacked=result.attacked, surrogate=result.surrogate)
    names = [slug(one.subject.name) for one in result.models]
    files = [f"{name}{f'-{i}' if names.count(name) > 1 else ''}.csv" for i, name in enumerate(names, start=1)]
    models = [_model(one, result.options, file) for one, file in zip(result.models, files, strict=True)]
    subject = result.models[0].subject
    return AuditReport(
        created=datetime.now(UTC),
        command=command,
        threat_model=threat_model(result.options, models, result.surrogate),
        settings=settings,
        models=models,
        cautions=[*result.cautions, *cautions(settings, models, threats=bool(result.options.threats.threats))],
        versions=versions(),
        hardware=hardware(subject.device, low_precision=subject.precision.startswith("bf16")),
    )


def _model(result: ModelResult, options: AuditOptions, per_image: str) -> ModelEntry:
    card, gallery = result.card, result.embedded.gallery
    score, _, _ = overall_score(card, seed=options.seed, resamples=2)
    described = result.subject.describe()
    return ModelEntry(
        **described,
        method=_plain(result.method),
        upper_bound=result.upper_bound,
        benign=None if result.benign is None else BenignEntry(**result.benign.to_dict()),
        ers=_finite(card.ers),
        ers_low=_finite(card.ers_low),
        ers_high=_finite(card.ers_high),
        ars=_finite(card.ars),
        score=score,
        worst_recall=card.worst_recall,
        worst_case_recall=_finite(card.worst_case_recall),
        worst_score=card.worst_score,
        strong=None if card.strong is None else _strong(card.strong),
        recall_at_1=card.recall_at_1,
        n=card.n,
        mean_cosine=card.mean_cosine,
        figures=_figures(card),
        checks=[CheckEntry(kind=str(c.kind), where=c.where, message=c.message) for c in card.checks],
        seeds=list(card.seeds),
        queries=result.queries,
        curves=list(result.curves),
        worst_queries=[
            WeakQueryEntry(id=gallery.ids[one.row], label=gallery.label(one.row), **asdict(one))
            for one in result.worst_queries
        ],
        worst_classes=[
            WeakClassEntry(
                label=gallery.classes[one.label] or UNLABELLED,
                images=len(one.rows),
                score=one.score,
                recall_at_1=one.recall_at_1,
            )
            for one in result.worst_classes
        ],
        edits=result.edits,
        survival=result.survival,
        certificates=list(result.certificates),
        threats=[_threat(one) for one in result.threats],
        per_image=per_image,
    )


def _strong(strong: StrongScore) -> StrongEntry:
    """Return the strong score as the report holds it."""
    return StrongEntry.model_validate(
        {name: _finite(value) if isinstance(value, float) else value for name, value in asdict(strong).items()}
    )


def _threat(found: ThreatResult) -> ThreatEntry:
    return ThreatEntry(
        name=found.name,
        title=THREATS[found.name].title,
        n=found.card.n,
        figures=_figures(found.card),
        options=_plain(dict(found.options)),
    )


def _figures(card: Scorecard) -> dict[str, FigureEntry]:
    return {
        key: figure_entry(card.scales[key], **{**asdict(found), "success": _finite(found.success)})
        for key, found in card.figures.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON has them: enums as strings."""
    return {name: str(value) if isinstance(value, str) else value for name, value in content.items()}
