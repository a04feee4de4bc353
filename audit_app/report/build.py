"""From what an audit found to files: report.json, a CSV for each model, report.html."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hardrank.audit_app.audit.options import AuditOptions
from hardrank.audit_app.audit.runner import AuditResult, CurveResult, ModelResult, overall_score, slug
from hardrank.audit_app.gallery.image_gallery import UNLABELLED, ImageGallery
from hardrank.audit_app.results.schema import (
    AuditReport,
    BenignEntry,
    CheckEntry,
    CurveEntry,
    CurvePointEntry,
    FigureEntry,
    GalleryEntry,
    ModelEntry,
    Settings,
    WeakClassEntry,
    WeakQueryEntry,
)
from hardrank.audit_app.subjects.loading import Subject
from hardrank.models.files import atomic_path
from hardrank.trainer.evaluation.scorecard import Scorecard
from hardrank.trainer.runtime.environment import hardware, versions

JSON: Final = "report.json"
HTML: Final = "report.html"
_FEW: Final = 100
_WIDE: Final = 6.0
_NAMED: Final = 5


def settings_of(
    options: AuditOptions, gallery: ImageGallery, *, attacked: int, surrogate: Subject | None = None
) -> Settings:
    """Give what decides the figures of an audit, besides the models."""
    robustness = options.robustness
    return Settings(
        attacks={name: _plain(asdict(attack)) for name, attack in options.build().items()},  # type: ignore[call-overload]
        attacked=attacked,
        seed=options.seed,
        norm=str(robustness.norm),
        epsilon=robustness.epsilon,
        alpha=robustness.alpha,
        steps=robustness.steps,
        engine=str(robustness.engine),
        random_start=robustness.random_start,
        restarts=robustness.restarts,
        method=str(options.method),
        search=dict(options.search),
        surrogate=None if surrogate is None else surrogate.sha256,
        gallery=GalleryEntry(
            name=gallery.name,
            sha256=gallery.digest(),
            items=len(gallery),
            classes=gallery.labelled_classes,
            left_out=list(gallery.problems),
        ),
    )


def make_report(result: AuditResult, *, command: str) -> AuditReport:
    """Describe what an audit found."""
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
        cautions=cautions(settings, models),
        versions=versions(),
        hardware=hardware(subject.device, low_precision=subject.precision.startswith("bf16")),
    )


def write_report(result: AuditResult, out: Path, *, command: str) -> AuditReport:
    """Write report.json, report.html and a CSV for each model to the folder `out`; gives the report."""
    from hardrank.audit_app.report.page import render_page

    report = make_report(result, command=command)
    for model, entry in zip(result.models, report.models, strict=True):
        write_table(model.card, result.gallery, out / entry.per_image)
    page = render_page(report, result)
    with atomic_path(out / HTML) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    with atomic_path(out / JSON) as unfinished:
        unfinished.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def write_table(card: Scorecard, gallery: ImageGallery, path: Path) -> None:
    """Write a line for each attacked image: its id, class and row, and each figure before, under noise and attacked."""
    table = card.per_image
    flat = {name: values for name, values in table.columns.items() if values.ndim == 1}
    with atomic_path(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "class", "row", *flat])
        for i, row in enumerate(table.rows.tolist()):
            writer.writerow(
                [gallery.ids[row], gallery.label(row), row, *(values[i].item() for values in flat.values())]
            )


def threat_model(options: AuditOptions, models: Sequence[ModelEntry], surrogate: Subject | None) -> list[str]:
    """Say in sentences what the attacker knows, may do, and wants."""
    robustness = options.robustness
    ball = {
        "linf": f"every pixel by at most ε = {in_255(robustness.epsilon)} of its range (L∞)",
        "l2": f"the image by at most ε = {robustness.epsilon:.3g} in Euclidean length, of pixels in [0,1] (L2)",
    }[str(robustness.norm)]
    runs = "" if robustness.restarts == 1 else f", the worst of {robustness.restarts} runs"
    white = [model.name for model in models if model.method["name"] == "white-box"]
    said = [
        f"The attacker changes {ball}. The gallery itself stays untouched, but for the one candidate of CA+ and CA-.",
        "The attacker wants to move the ranking: lift or sink an item, make one image pass for another, or make the "
        "ranking useless (the table says which attack does what). Each image is attacked anew by each attack.",
    ]
    if white:
        said.append(
            f"Against {_and(white)} the attacker knows everything (white-box): {robustness.steps} steps of "
            f"{str(robustness.engine).upper()} along the gradient, α = {in_255(robustness.alpha)}{runs}."
        )
    for model in models:
        if model.method["name"] != "white-box":
            said.append(_asked(model, surrogate))
    said.append("The final images are judged in float32, as the model answers queries.")
    return said


def _asked(model: ModelEntry, surrogate: Subject | None) -> str:
    method = model.method
    if surrogate is not None:
        return (
            f"Against {model.name} the attacker knows only another model, {surrogate.name}, attacks that one, and "
            "hopes that the image works here too (transfer)."
        )
    return (
        f"Against {model.name} the attacker may only ask for embeddings ({str(method['name']).upper()}, black-box): at "
        f"most {method['queries']} questions an image and attack, {model.queries} in all."
    )


def cautions(settings: Settings, models: Sequence[ModelEntry]) -> list[str]:
    """Say what to keep in mind when reading the figures."""
    said = []
    for model in models:
        if model.checks:
            kinds = _and(sorted({check.kind for check in model.checks}))
            said.append(f"{model.name}: this evaluation should not be trusted as it stands ({kinds}; see its checks).")
        if model.method["name"] != "white-box":
            said.append(
                f"{model.name} was attacked without its gradients. Such attacks are weaker: its score is an upper "
                "bound, and must not be compared with that of a model attacked by gradients."
            )
        if model.ers_low is not None and model.ers_high is not None and model.ers_high - model.ers_low > _WIDE:
            said.append(
                f"{model.name}: the interval of ERS is {model.ers_high - model.ers_low:.1f} points wide; "
                "attack more images to say more."
            )
        if model.ers is None:
            said.append(f"{model.name}: not all ten results were measured, so there is no ERS.")
        if model.benign is None:
            said.append(f"{model.name}: no class has two images, so retrieval itself could not be measured.")
        said += [f"{model.name}: {note}." for note in model.notes]
    if settings.attacked < _FEW:
        said.append(f"{settings.attacked} images are a small sample; the published protocol attacks every test image.")
    if settings.attacked < settings.gallery.items:
        said.append(
            f"{settings.attacked} of {settings.gallery.items} images were attacked. The intervals say how the mean "
            "over such a sample varies; they say nothing of other galleries."
        )
    if settings.gallery.left_out:
        named = "; ".join(settings.gallery.left_out[:_NAMED])
        more = len(settings.gallery.left_out) - _NAMED
        files = "1 file was" if len(settings.gallery.left_out) == 1 else f"{len(settings.gallery.left_out)} files were"
        said.append(f"{files} left out: {named}{f'; and {more} more' if more > 0 else ''}.")
    return said


NOT_SAID: Final = (
    "ERS averages ten attacks. A high mean can hide a single attack that always succeeds: read the ten parts too.",
    "It is measured against the attacks that were run, at one budget. A stronger or an adaptive attack can only lower "
    "it: it is evidence of robustness, and no proof.",
    "A collapsed model, which puts all images near each other, scores well because none can move far. Read ERS "
    "only beside Recall@1 and the mean cosine of random pairs.",
    "It says nothing of other changes to an image: rotation, cropping, patches, or a poisoned gallery.",
    "The relevance of a ranking to people is not measured; classes stand for it.",
)
"""What ERS does not say."""


def in_255(value: float) -> str:
    """Write a length of pixels in [0,1] as `8/255`."""
    return f"{255 * value:.4g}/255"


def _model(result: ModelResult, options: AuditOptions, per_image: str) -> ModelEntry:
    card, gallery = result.card, result.embedded.gallery
    score, _, _ = overall_score(card, seed=options.seed, resamples=2)
    described = result.subject.describe()
    return ModelEntry(
        **described,
        method=_plain(result.method),
        benign=None if result.benign is None else BenignEntry(**result.benign.to_dict()),
        ers=_finite(card.ers),
        ers_low=_finite(card.ers_low),
        ers_high=_finite(card.ers_high),
        ars=_finite(card.ars),
        score=score,
        worst_recall=card.worst_recall,
        worst_score=card.worst_score,
        recall_at_1=card.recall_at_1,
        n=card.n,
        mean_cosine=card.mean_cosine,
        figures=_figures(card),
        checks=[CheckEntry(kind=str(c.kind), where=c.where, message=c.message) for c in card.checks],
        seeds=list(card.seeds),
        queries=result.queries,
        curves=[_curve(curve) for curve in result.curves],
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
        per_image=per_image,
    )


def _figures(card: Scorecard) -> dict[str, FigureEntry]:
    return {
        key: FigureEntry(
            **{name: value for name, value in asdict(found).items() if name != "success"},
            success=_finite(found.success),
            unit=card.scales[key].unit,
            help=card.scales[key].help,
            attacked=card.scales[key].attacked,
            resisted=card.scales[key].resisted,
        )
        for key, found in card.figures.items()
    }


def _curve(curve: CurveResult) -> CurveEntry:
    return CurveEntry(
        parameter=str(curve.parameter),
        attacked=curve.attacked,
        points=[CurvePointEntry(**asdict(point)) for point in curve.points],
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Give options as JSON has them: enums as their text."""
    return {name: str(value) if isinstance(value, str) else value for name, value in content.items()}


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
