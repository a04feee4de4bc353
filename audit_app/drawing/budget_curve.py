"""Chart of the score against an attack budget, with the band of its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.audit_app.drawing.formatting import format_score
from hardrank.audit_app.drawing.markup import Markup, element, join, svg

_WIDTH: Final = 460.0
_HEIGHT: Final = 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 12.0, 44.0


@dataclass(frozen=True, kw_only=True)
class BudgetPoint:
    """A score with its interval."""

    at: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BudgetLine:
    """The curve of a model."""

    series: int
    """Number of the model, from 0; selects the color."""
    name: str
    points: Sequence[BudgetPoint]
    upper_bound: bool = False
    """Drawn dashed."""


def budget_curve(
    lines: Sequence[BudgetLine], *, names: Sequence[str], x_label: str, y_label: str, label: str
) -> Markup:
    """Draw `lines` over budgets in rising order, labeled `names` and equally spaced, since most are doublings."""
    budgets = sorted({point.at for line in lines for point in line.points})
    grid = [_level(at) for at in (0, 25, 50, 75, 100)]
    ticks = [
        element("text", name, x=_x(i, len(budgets)), y=_HEIGHT - _BOTTOM + 18, text_anchor="middle", class_="quiet")
        for i, name in enumerate(names)
    ]
    foot = element("text", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, text_anchor="middle", class_="name")
    side = element(
        "text",
        y_label,
        transform=f"translate(12 {(_TOP + _HEIGHT - _BOTTOM) / 2:g}) rotate(-90)",
        text_anchor="middle",
        class_="name",
    )
    return svg(_WIDTH, _HEIGHT, *grid, *ticks, foot, side, *(_line(line, budgets) for line in lines), label=label)


def _x(place: int, count: int) -> float:
    inside = _WIDTH - _LEFT - _RIGHT - 30
    return _LEFT + 15 + (inside * place / (count - 1) if count > 1 else inside / 2)


def _y(value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(max(value, 0.0), 100.0) / 100)


def _level(at: int) -> Markup:
    return join(
        element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_y(at), y2=_y(at), class_="grid"),
        element("text", str(at), x=_LEFT - 6, y=_y(at) + 4, text_anchor="end", class_="quiet"),
    )


def _line(line: BudgetLine, budgets: Sequence[float]) -> Markup:
    places = [_x(budgets.index(point.at), len(budgets)) for point in line.points]
    upper = [(x, _y(point.high)) for x, point in zip(places, line.points, strict=True)]
    lower = [(x, _y(point.low)) for x, point in zip(places, line.points, strict=True)]
    middle = [(x, _y(point.value)) for x, point in zip(places, line.points, strict=True)]
    dots = [
        element(
            "circle",
            element("title", f"{line.name}: {format_score(point.value, upper_bound=line.upper_bound)}"),
            cx=x,
            cy=y,
            r=3.0,
            class_="fill",
        )
        for (x, y), point in zip(middle, line.points, strict=True)
    ]
    return element(
        "g",
        join(
            element("polygon", points=_points([*upper, *reversed(lower)]), class_="band"),
            element("polyline", points=_points(middle), class_="stroke dashed" if line.upper_bound else "stroke"),
            *dots,
        ),
        class_=f"series-{line.series}",
    )


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
