"""Charts of models' scores: overall, by part, as a radar, and against the attack budget."""

from collections.abc import Mapping, Sequence
from typing import Final

from hardrank.audit_app.audit.options import CurveParameter
from hardrank.audit_app.drawing.budget_curve import BudgetLine, BudgetPoint, budget_curve
from hardrank.audit_app.drawing.formatting import format_score
from hardrank.audit_app.drawing.markup import Markup
from hardrank.audit_app.drawing.radar import RadarSeries, radar
from hardrank.audit_app.drawing.score_bars import BarGroup, ScoreBar, score_bars
from hardrank.audit_app.results.schema import FigureEntry
from hardrank.audit_app.results.scores import ModelScores, split_by_knowledge
from hardrank.trainer.attacks.registry import kind_of_figure

NumberedScores = Sequence[tuple[int, ModelScores]]
"""Scores with the number of each model on the page, which selects its color."""

SERIES: Final = 6
"""Number of colors; further models start again with the first."""
_RADAR_PARTS: Final = 3
_SCORE: Final = "score"
_BOUND: Final = "upper bound of the score"


def goal_of(key: str, help: str) -> str:
    """Say what the attack behind the figure `key` wants; `help` says what the figure is."""
    kind = kind_of_figure(key)
    return help if kind is None else f"{kind.title} ({help})"


def overall_bars(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the score of each model with its interval; upper bounds, hatched, in a chart of their own."""
    return [_overall_bars(group) for group in split_by_knowledge(models)]


def _overall_bars(group: NumberedScores) -> Markup:
    bars = [
        BarGroup(
            name=_short(model.name),
            bars=[
                ScoreBar(
                    series=i % SERIES,
                    value=model.score,
                    low=model.low,
                    high=model.high,
                    tip=f"{model.name}: {format_score(model.score, upper_bound=model.upper_bound, digits=2)}",
                    upper_bound=model.upper_bound,
                )
            ],
        )
        for i, model in group
    ]
    label = f"The overall {_kind(group)} of each model, 0 to 100, with its 95 % interval"
    return score_bars(bars, label=label, axis=_axis_title(group))


def part_bars(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the score of each part and model with its interval; upper bounds, hatched, in a chart of their own."""
    return [_part_bars(group) for group in split_by_knowledge(models)]


def _part_bars(group: NumberedScores) -> Markup:
    groups = []
    for key in group[0][1].figures:
        bars = []
        for i, model in group:
            if key not in model.figures:
                continue
            figure, bound = model.figures[key], model.upper_bound
            low, high = score_interval(figure)
            tip = (
                f"{model.name}, {key}: {figure.value:.4g}{figure.unit and ' ' + figure.unit}, "
                f"score {format_score(figure.score, upper_bound=bound)}"
            )
            bars.append(ScoreBar(series=i % SERIES, value=figure.score, low=low, high=high, tip=tip, upper_bound=bound))
        groups.append(BarGroup(name=key, bars=bars))
    label = f"The {_kind(group)} of each part and model, 0 to 100, with 95 % intervals"
    return score_bars(groups, label=label, axis=_axis_title(group))


def score_radar(models: Sequence[ModelScores]) -> Markup | None:
    """Draw the parts of each score as a polygon; None with fewer than three parts, or if all are upper bounds.

    Only models attacked with gradients are drawn: the areas of upper bounds mean nothing.
    """
    shown = [(i, model) for i, model in enumerate(models) if not model.upper_bound]
    if not shown or len(shown[0][1].figures) < _RADAR_PARTS:
        return None
    keys = list(shown[0][1].figures)
    shapes = [
        RadarSeries(series=i % SERIES, name=model.name, values=[model.figures[key].score for key in keys])
        for i, model in shown
        if set(keys) <= set(model.figures)
    ]
    return radar(keys, shapes, label="The parts of each model's score: the larger the area, the more robust the model")


def score_curves(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the score against each attack budget that was varied; upper bounds in charts of their own."""
    drawn = []
    for parameter in CurveParameter:
        for group in split_by_knowledge(models):
            lines = [
                BudgetLine(
                    series=i % SERIES,
                    name=model.name,
                    points=[BudgetPoint(at=p.at, value=p.score, low=p.low, high=p.high) for p in curve.points],
                    upper_bound=model.upper_bound,
                )
                for i, model in group
                for curve in model.curves
                if curve.parameter == parameter
            ]
            if lines:
                budgets = sorted({point.at for line in lines for point in line.points})
                names, axis = _budgets(parameter, budgets), _AXIS[parameter]
                label = f"The {_kind(group)} against {axis}"
                drawn.append(budget_curve(lines, names=names, x_label=axis, y_label=_axis_title(group), label=label))
    return drawn


def _kind(group: NumberedScores) -> str:
    return _BOUND if group[0][1].upper_bound else _SCORE


def _axis_title(group: NumberedScores) -> str:
    return f"{_kind(group)}; higher is more robust"


def score_interval(figure: FigureEntry) -> tuple[float, float]:
    """Return the ends of a figure's interval as scores from 0 to 100."""
    span = figure.resisted - figure.attacked
    ends = sorted(100 * (end - figure.attacked) / span for end in (figure.low, figure.high))
    return ends[0], ends[1]


_AXIS: Final[Mapping[CurveParameter, str]] = {
    CurveParameter.EPSILON: "budget ε, in 1/255",
    CurveParameter.STEPS: "steps of the attack",
    CurveParameter.QUERIES: "queries per image and attack",
}


def _budgets(parameter: CurveParameter, values: Sequence[float]) -> list[str]:
    return [f"{255 * value:.3g}" if parameter is CurveParameter.EPSILON else f"{value:g}" for value in values]


_SHORT: Final = 12
"""Characters."""


def _short(name: str) -> str:
    """Shorten a name from the left: names of models usually differ at the end."""
    return name if len(name) <= _SHORT else "…" + name[1 - _SHORT :]
