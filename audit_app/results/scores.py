"""Scores of models as the pages show them, from a bundle's card or from the report of an audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hardrank.audit_app.results.schema import (
    WHITE_BOX,
    AuditReport,
    CheckEntry,
    CurveEntry,
    FigureEntry,
    ModelEntry,
    StrongEntry,
)
from hardrank.models.card import Card
from hardrank.trainer.attacks.attack import Figure
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
    """By name: Recall@1 and the rest, on benign images."""
    n: int
    """Attacked images."""
    gallery: int
    """Images that are ranked."""
    budget: str
    """Of pixels, such as `ε 8/255`."""
    effort: str
    """What limited the attacker: steps or queries."""
    upper_bound: bool
    """Whether the scores are upper bounds, since the attacks had no gradients."""
    checks: Sequence[CheckEntry]
    """Sanity checks that failed."""
    worst_case_recall: float | None = None
    """Recall@1 in % that survives ES, LTM, GTM and MARGIN; None if they were not all measured."""
    strong: StrongEntry | None = None
    """The strong ERS; None if it was not measured."""
    curves: Sequence[CurveEntry] = ()


_BENIGN = ("recall_at_1", "recall_at_2", "mean_ap", "map_at_r", "nmi", "mean_cosine")


def scores_of_card(card: Card) -> ModelScores | None:
    """Read the scores in a bundle's card; None if it was not measured, or not by all ten results."""
    found = card.robustness
    if not found:
        return None
    scales = known_figures()
    try:
        figures = {key: figure_entry(scales[key], **values) for key, values in found["figures"].items()}
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
            budget=budget_text(str(found["options"].get("norm", "linf")), float(found["options"]["epsilon"])),
            effort=f"{int(found['options']['steps'])} steps",
            upper_bound=False,
            checks=[CheckEntry(**check) for check in found["checks"]],
            worst_case_recall=found.get("worst_case_recall"),
            strong=None if found.get("strong") is None else StrongEntry.model_validate(found["strong"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError):  # a card of another version, or edited by hand
        return None


def figure_entry(figure: Figure, **values: Any) -> FigureEntry:
    """Return the entry of a result: the measured values, and the unit and scale that its attack declares."""
    return FigureEntry(unit=figure.unit, help=figure.help, attacked=figure.attacked, resisted=figure.resisted, **values)


def budget_text(norm: str, epsilon: float) -> str:
    """Format a budget of pixels, such as `ε 8/255` or `ε 1.5 (L2)`."""
    return f"ε {epsilon:.3g} (L2)" if norm == "l2" else f"ε {255 * epsilon:.4g}/255"


def effort_text(method: Mapping[str, Any], steps: int) -> str:
    """Say what limited an attacker: queries for a black-box search, else steps."""
    if "queries" in method:
        return f"{method['queries']} queries per image and attack"
    return f"{steps} steps" if method["name"] == WHITE_BOX else f"{steps} steps on the surrogate"


def split_by_knowledge(models: Sequence[ModelScores]) -> list[list[tuple[int, ModelScores]]]:
    """Split models into those attacked with gradients and those without, each with its number in `models`.

    The scores of the second group are upper bounds, which must not be ranked beside the first. Empty groups are left
    out.
    """
    numbered = list(enumerate(models))
    groups = ([one for one in numbered if one[1].upper_bound is bound] for bound in (False, True))
    return [group for group in groups if group]


def scores_of_report(report: AuditReport) -> list[ModelScores]:
    """Return the scores of each model in a report."""
    return [scores_of_model(report, model) for model in report.models]


def scores_of_model(report: AuditReport, model: ModelEntry) -> ModelScores:
    """Return the scores of one model of a report."""
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
        benign={} if model.benign is None else model.benign.model_dump(include=set(_BENIGN)),
        n=model.n,
        gallery=report.settings.gallery.items,
        budget=budget_text(report.settings.norm, report.settings.epsilon),
        effort=effort_text(model.method, report.settings.steps),
        upper_bound=model.upper_bound,
        checks=model.checks,
        worst_case_recall=model.worst_case_recall,
        strong=model.strong,
        curves=model.curves,
    )
