"""Charts of overlap against the strength of each edit."""

from collections.abc import Sequence

from hardrank.audit_app.drawing.budget_curve import BudgetLine, BudgetPoint, budget_curve
from hardrank.audit_app.drawing.markup import Markup
from hardrank.audit_app.drawing.score_figures import SERIES
from hardrank.audit_app.results.schema import ModelEntry
from hardrank.audit_app.results.transform_entries import IntervalEntry


def edit_curves(models: Sequence[ModelEntry]) -> list[tuple[str, Markup]]:
    """Draw the mean overlap of each model's rankings against the strength of each edit, the mildest at the left.

    Returns:
        The title of each edit, and its chart; none without measured edits.
    """
    measured = [(i, model.name, model.edits) for i, model in enumerate(models) if model.edits is not None]
    if not measured:
        return []
    charts = []
    for key, edit in measured[0][2].edits.items():
        lines = [
            BudgetLine(
                series=i % SERIES,
                name=name,
                points=[_point(place, point.overlap) for place, point in enumerate(found.edits[key].points)],
            )
            for i, name, found in measured
        ]
        names = [f"{point.strength:g}" for point in edit.points]
        label = f"Mean overlap of the first items, in %, of images {edit.title}"
        axis = f"overlap@{measured[0][2].k}, %"
        charts.append((edit.title, budget_curve(lines, names=names, x_label=edit.unit, y_label=axis, label=label)))
    return charts


def _point(place: int, overlap: IntervalEntry) -> BudgetPoint:
    """Return a point in %; strengths are equally spaced."""
    return BudgetPoint(at=place, value=100 * overlap.value, low=100 * overlap.low, high=100 * overlap.high)
