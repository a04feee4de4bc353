"""Line charts over the steps of an attack: loss, ranks, overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hardrank.audit_app.drawing.markup import Markup, element, join, svg

_WIDTH: Final = 400.0
_HEIGHT: Final = 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 10.0, 24.0, 22.0


class Scale(StrEnum):
    """Scale of the vertical axis."""

    LINEAR = "linear"
    RANK = "rank"
    """Logarithmic, rank 1 at the top."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve."""

    name: str
    style: str
    """CSS class of its color, such as `series-0`."""
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_end: float,
    low: float,
    high: float,
    scale: Scale = Scale.LINEAR,
    x_label: str = "step",
    percent: bool = False,
) -> Markup:
    """Draw `lines` over x from 0 to `x_end` and y from `low` to `high`; values that are not finite are skipped."""
    axis = _Axis(low, high if high > low else low + 1, scale)
    ticks = axis.ticks()
    grid = [
        join(
            element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=axis.y(v), y2=axis.y(v), class_="grid"),
            element("text", _tick(v, percent), x=_LEFT - 6, y=axis.y(v) + 4, text_anchor="end", class_="quiet"),
        )
        for v in ticks
    ]
    ends = [
        element("text", "0", x=_LEFT, y=_HEIGHT - 6, text_anchor="middle", class_="quiet"),
        element("text", f"{x_label} {x_end:g}", x=_WIDTH - _RIGHT, y=_HEIGHT - 6, text_anchor="end", class_="quiet"),
        element("text", title, x=_LEFT, y=14, class_="heading"),
    ]
    curves = [_curve(line, axis, x_end) for line in lines]
    return svg(_WIDTH, _HEIGHT, *grid, *ends, *curves, label=_describe(lines, title))


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    scale: Scale

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        inside = _HEIGHT - _TOP - _BOTTOM
        if self.scale is Scale.RANK:
            span = math.log(self.high) - math.log(self.low)
            return _TOP + inside * (math.log(max(value, self.low)) - math.log(self.low)) / span
        return _TOP + inside * (1 - (value - self.low) / (self.high - self.low))

    def ticks(self) -> list[float]:
        """Return the values with a grid line: powers of ten for ranks, else the ends and the middle."""
        if self.scale is Scale.LINEAR:
            return [self.low, (self.low + self.high) / 2, self.high]
        powers = [10.0**i for i in range(int(math.log10(self.high)) + 1)]
        near = math.log(self.high) - math.log(powers[-1]) < 0.35 * math.log(10)
        kept = powers[:-1] if near and len(powers) > 1 else powers
        return [*kept, self.high] if kept[-1] != self.high else kept


def _curve(line: Line, axis: _Axis, x_end: float) -> Markup:
    width = _WIDTH - _LEFT - _RIGHT
    points = [
        (_LEFT + width * (x / x_end if x_end else 0), axis.y(y))
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(y)
    ]
    if not points:
        return join()
    path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return join(
        element("path", d=path, class_=f"curve {line.style}", fill="none"),
        element("circle", cx=round(x, 1), cy=round(y, 1), r=3, class_=f"dot {line.style}"),
    )


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:.0f} %" if percent else f"{value:.3g}" if value < 1000 else f"{value:,.0f}".replace(",", " ")


def _describe(lines: Sequence[Line], title: str) -> str:
    ends = [f"{line.name} {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines if line.y]
    return f"{title}: {'; '.join(ends) or 'no data yet'}"
