"""ModelScores of models as the pages show them, from a bundle's card or from the report of an audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from hardrank.audit_app.results.schema import AuditReport, BenignEntry, CheckEntry, CurveEntry, FigureEntry, ModelEntry
from hardrank.models.card import Card
from hardrank.trainer.attacks.registry import known_figures


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """The scores of a model."""

    name: str
    description: str
    """Its defense, and how it was attacked."""
    score: float
    """ERS, 0 … 100; the mean score of the measured figures if they are not all ten."""
    low: float
    high: float
    """Ends of its 95 % interval."""
    complete: bool
    """Whether the score is ERS."""
    figures: Mapping[str, FigureEntry]
    benign: Mapping[str, float]
    """By name: Recall@1 and the rest, on clean images."""
    n: int
    """Attacked images."""
    gallery: int
    """Images that are ranked."""
    epsilon: float
    """Of pixels in [0,1]."""
    steps: int
    checks: Sequence[CheckEntry]
    """Sanity checks that failed."""
    curves: Sequence[CurveEntry] = ()


_BENIGN = ("recall_at_1", "recall_at_2", "mean_ap", "map_at_r", "nmi", "mean_cosine")


def scores_of_card(card: Card) -> ModelScores | None:
    """Read the scores in a bundle's card; None if it was not measured, or not by all ten results."""
    found = card.robustness
    if not found:
        return None
    scales = known_figures()
    try:
        figures = {
            key: FigureEntry(
                **values,
                unit=scales[key].unit,
                help=scales[key].help,
                attacked=scales[key].attacked,
                resisted=scales[key].resisted,
            )
            for key, values in found["figures"].items()
        }
        return ModelScores(
            name=card.name,
            description=card.defense,
            score=float(found["ers"]),
            low=float(found["ers_low"]),
            high=float(found["ers_high"]),
            complete=True,
            figures=figures,
            benign={key: card.metrics[key] for key in _BENIGN if key in card.metrics},
            n=int(found["n"]),
            gallery=int(found["gallery"]),
            epsilon=float(found["options"]["epsilon"]),
            steps=int(found["options"]["steps"]),
            checks=[CheckEntry(**check) for check in found["checks"]],
        )
    except (KeyError, TypeError, ValueError, ValidationError):  # a card of another version, or edited by hand
        return None


def scores_of_report(report: AuditReport) -> list[ModelScores]:
    """Return the scores of each model in a report."""
    return [_of_model(report, model) for model in report.models]


def _of_model(report: AuditReport, model: ModelEntry) -> ModelScores:
    score = model.score if model.ers is None else model.ers
    method = f"{model.method['name']}, {model.queries} queries" if model.queries is not None else model.method["name"]
    return ModelScores(
        name=model.name,
        description=f"{model.defense} · {method}" if model.defense else str(method),
        score=score,
        low=score if model.ers_low is None else model.ers_low,
        high=score if model.ers_high is None else model.ers_high,
        complete=model.ers is not None,
        figures=model.figures,
        benign=_benign(model.benign),
        n=model.n,
        gallery=report.settings.gallery.items,
        epsilon=report.settings.epsilon,
        steps=report.settings.steps,
        checks=model.checks,
        curves=model.curves,
    )


def _benign(entry: BenignEntry | None) -> dict[str, float]:
    return {} if entry is None else {key: float(getattr(entry, key)) for key in _BENIGN}
