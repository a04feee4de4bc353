"""Bar chart of scores from 0 to 100, with intervals, in groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.audit_app.drawing.formatting import format_score
from hardrank.audit_app.drawing.markup import Markup, element, join, svg

_WIDTH: Final = 440.0
_LEFT: Final = 106.0
_RIGHT: Final = 40.0
_BAR: Final = 13.0
_BETWEEN: Final = 10.0
_TOP: Final = 8.0
_AXIS: Final = 24.0
_AXIS_NAME: Final = 16.0
_HATCH: Final = 5.0
"""Distance between the lines of a hatched bar."""


@dataclass(frozen=True, kw_only=True)
class ScoreBar:
    """A score of one model."""

    series: int
    """Number of the model, from 0; selects the color."""
    value: float
    """0 … 100."""
    low: float
    high: float
    """Ends of its interval; equal if there is none."""
    tip: str
    """Tooltip."""
    upper_bound: bool = False
    """Drawn hatched, and labeled with ≤."""


@dataclass(frozen=True, kw_only=True)
class BarGroup:
    """Bars with a common name."""

    name: str
    bars: Sequence[ScoreBar]


def score_bars(groups: Sequence[BarGroup], *, label: str, axis: str = "") -> Markup:
    """Draw the groups of bars below each other, on an axis from 0 to 100 that is named `axis`."""
    parts, y = [], _TOP
    for group in groups:
        height = len(group.bars) * _BAR
        parts.append(element("text", group.name, x=_LEFT - 10, y=y + height / 2 + 4, text_anchor="end", class_="name"))
        for i, bar in enumerate(group.bars):
            parts.append(_bar(bar, y + i * _BAR))
        y += height + _BETWEEN
    grid = [_tick(at, y - _BETWEEN / 2) for at in (0, 25, 50, 75, 100)]
    foot = y + _AXIS - _BETWEEN / 2
    if axis:
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(element("text", axis, x=middle, y=foot + 10, text_anchor="middle", class_="quiet"))
        foot += _AXIS_NAME
    return svg(_WIDTH, foot, *grid, *parts, label=label)


def _x(value: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(value, 0.0), 100.0) / 100


def _bar(bar: ScoreBar, y: float) -> Markup:
    thick = _BAR - 3
    width = max(1.0, _x(bar.value) - _LEFT)
    if bar.upper_bound:
        area = join(
            element("rect", x=_LEFT, y=y, width=width, height=thick, class_="bound"),
            element("path", d=_hatching(_LEFT, y, width, thick), class_="bound"),
        )
    else:
        area = element("rect", x=_LEFT, y=y, width=width, height=thick, rx=2.0, class_="fill")
    parts = [element("title", bar.tip), area]
    end = _x(bar.value)
    if bar.high > bar.low:
        middle, end = y + thick / 2, max(end, _x(bar.high))
        parts.append(element("line", x1=_x(bar.low), x2=_x(bar.high), y1=middle, y2=middle, class_="whisker"))
        parts += [
            element("line", x1=_x(at), x2=_x(at), y1=middle - 3, y2=middle + 3, class_="whisker")
            for at in (bar.low, bar.high)
        ]
    shown = format_score(bar.value, upper_bound=bar.upper_bound)
    parts.append(element("text", shown, x=end + 5, y=y + thick - 1, class_="figure"))
    return element("g", join(*parts), class_=f"series-{bar.series}")


def _hatching(left: float, top: float, width: float, height: float) -> str:
    """Path of diagonal lines that fill a rectangle."""
    lines, start = [], -height
    while (start := start + _HATCH) < width:
        low, high = max(start, 0.0), min(start + height, width)  # each rises from the lower edge to the right
        ends = (f"{left + x:.1f} {top + height - (x - start):.1f}" for x in (low, high))
        lines.append(f"M{'L'.join(ends)}")
    return "".join(lines)


def _tick(at: int, bottom: float) -> Markup:
    return join(
        element("line", x1=_x(at), x2=_x(at), y1=_TOP - 4, y2=bottom, class_="grid"),
        element("text", str(at), x=_x(at), y=bottom + 15, text_anchor="middle", class_="quiet"),
    )
