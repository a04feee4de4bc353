"""Radar chart of scores from 0 (center) to 100 (rim)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.audit_app.drawing.markup import Markup, element, join, svg

_WIDTH: Final = 380.0
_HEIGHT: Final = 330.0
_RADIUS: Final = 124.0
_RINGS: Final = (25, 50, 75, 100)


@dataclass(frozen=True, kw_only=True)
class RadarSeries:
    """The scores of a model, in the order of the axes."""

    series: int
    """Number of the model, from 0; selects the color."""
    name: str
    values: Sequence[float]


def radar(axes: Sequence[str], models: Sequence[RadarSeries], *, label: str) -> Markup:
    """Draw one polygon per model; three axes or more."""
    rings = [
        join(
            element("polygon", points=_points([ring] * len(axes)), class_="grid hollow"),
            element("text", str(ring), x=_WIDTH / 2 + 4, y=_at(ring, 0, len(axes))[1] + 11, class_="quiet small"),
        )
        for ring in _RINGS
    ]
    spokes = [_spoke(i, name, len(axes)) for i, name in enumerate(axes)]
    drawn = [
        element(
            "g",
            join(
                element("title", f"{model.name}: " + ", ".join(map(_describe, axes, model.values))),
                element("polygon", points=_points(model.values), class_="area"),
                *(_dot(model.values, i) for i in range(len(axes))),
            ),
            class_=f"series-{model.series}",
        )
        for model in models
    ]
    return svg(_WIDTH, _HEIGHT, *rings, *spokes, *drawn, label=label)


def _describe(axis: str, value: float) -> str:
    return f"{axis} {value:.0f}"


def _at(value: float, i: int, count: int) -> tuple[float, float]:
    angle = 2 * math.pi * i / count
    reach = _RADIUS * min(max(value, 0.0), 100.0) / 100
    return _WIDTH / 2 + reach * math.sin(angle), _HEIGHT / 2 - reach * math.cos(angle)


def _points(values: Sequence[float]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*_at(value, i, len(values))) for i, value in enumerate(values))


def _dot(values: Sequence[float], i: int) -> Markup:
    x, y = _at(values[i], i, len(values))
    return element("circle", cx=x, cy=y, r=2.5, class_="fill")


def _spoke(i: int, name: str, count: int) -> Markup:
    angle = 2 * math.pi * i / count
    x, y = _at(100, i, count)
    side = math.sin(angle)
    anchor = "middle" if abs(side) < 0.2 else ("start" if side > 0 else "end")
    text_y = _HEIGHT / 2 - (_RADIUS + 14) * math.cos(angle) + 4
    return join(
        element("line", x1=_WIDTH / 2, y1=_HEIGHT / 2, x2=x, y2=y, class_="grid"),
        element("text", name, x=_WIDTH / 2 + (_RADIUS + 10) * side, y=text_y, text_anchor=anchor, class_="name"),
    )
