"""Charts of models' scores: overall_score, by part, as a radar, and against the attack budget."""

from collections.abc import Mapping, Sequence
from typing import Final

from hardrank.audit_app.audit.options import CurveParameter
from hardrank.audit_app.drawing.budget_curve import BudgetLine, BudgetPoint, budget_curve
from hardrank.audit_app.drawing.markup import Markup
from hardrank.audit_app.drawing.radar import RadarSeries, radar
from hardrank.audit_app.drawing.score_bars import BarGroup, ScoreBar, score_bars
from hardrank.audit_app.results.schema import FigureEntry
from hardrank.audit_app.results.scores import ModelScores
from hardrank.trainer.attacks.registry import kind_of_figure

SERIES: Final = 6
"""Number of colours; further models start again with the first."""


def goal_of(key: str, help: str) -> str:
    """Say what the attack behind the figure `key` wants; `help` says what the figure is."""
    kind = kind_of_figure(key)
    return help if kind is None else f"{kind.title} ({help})"


def overall_bars(models: Sequence[ModelScores]) -> Markup:
    """Draw the score of each model with its interval."""
    groups = [
        BarGroup(
            name=_short(model.name),
            bars=[
                ScoreBar(
                    series=i % SERIES,
                    value=model.score,
                    low=model.low,
                    high=model.high,
                    tip=f"{model.name}: {model.score:.2f}",
                )
            ],
        )
        for i, model in enumerate(models)
    ]
    return score_bars(groups, label="The overall_score score of each model, 0 to 100, with its 95 % interval")


def part_bars(models: Sequence[ModelScores]) -> Markup:
    """Draw the score of each part and model with its interval."""
    groups = []
    for key in models[0].figures:
        bars = []
        for i, model in enumerate(models):
            if key not in model.figures:
                continue
            figure = model.figures[key]
            low, high = score_interval(figure)
            tip = (
                f"{model.name}, {key}: {figure.value:.4g}{figure.unit and ' ' + figure.unit}, score {figure.score:.1f}"
            )
            bars.append(ScoreBar(series=i % SERIES, value=figure.score, low=low, high=high, tip=tip))
        groups.append(BarGroup(name=key, bars=bars))
    return score_bars(groups, label="The score of each part and model, 0 to 100, with 95 % intervals")


def score_radar(models: Sequence[ModelScores]) -> Markup:
    """Draw the parts of each model's score as a polygon; needs three parts or more."""
    keys = list(models[0].figures)
    shapes = [
        RadarSeries(series=i % SERIES, name=model.name, values=[model.figures[key].score for key in keys])
        for i, model in enumerate(models)
        if set(keys) <= set(model.figures)
    ]
    return radar(keys, shapes, label="The parts of each model's score: the larger the area, the more robust the model")


def score_curves(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the score against each attack budget that was varied."""
    drawn = []
    for parameter in CurveParameter:
        lines = [
            BudgetLine(
                series=i % SERIES,
                name=model.name,
                points=[BudgetPoint(at=p.at, value=p.score, low=p.low, high=p.high) for p in curve.points],
            )
            for i, model in enumerate(models)
            for curve in model.curves
            if curve.parameter == parameter
        ]
        if lines:
            budgets = sorted({point.at for line in lines for point in line.points})
            names, axis = _budgets(parameter, budgets), _AXIS[parameter]
            drawn.append(budget_curve(lines, names=names, x_label=axis, label=f"The score against {axis}"))
    return drawn


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


def _short(name: str, most: int = 12) -> str:
    """Shorten a name from the left: names of models usually differ at the end."""
    return name if len(name) <= most else "…" + name[1 - most :]
