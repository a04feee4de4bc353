"""Bar chart of scores from 0 to 100, with intervals, in groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.audit_app.drawing.markup import Markup, element, join, svg

_WIDTH: Final = 440.0
_LEFT: Final = 106.0
_RIGHT: Final = 40.0
_BAR: Final = 13.0
_BETWEEN: Final = 10.0
_TOP: Final = 8.0
_AXIS: Final = 24.0


@dataclass(frozen=True, kw_only=True)
class ScoreBar:
    """A score of one model."""

    series: int
    """Number of the model, from 0; selects the colour."""
    value: float
    """0 … 100."""
    low: float
    high: float
    """Ends of its interval; equal if there is none."""
    tip: str
    """Tooltip."""


@dataclass(frozen=True, kw_only=True)
class BarGroup:
    """Bars with a common name."""

    name: str
    bars: Sequence[ScoreBar]


def score_bars(groups: Sequence[BarGroup], *, label: str) -> Markup:
    """Draw the groups of bars below each other, on an axis from 0 to 100."""
    parts, y = [], _TOP
    for group in groups:
        height = len(group.bars) * _BAR
        parts.append(element("text", group.name, x=_LEFT - 10, y=y + height / 2 + 4, text_anchor="end", class_="name"))
        for i, bar in enumerate(group.bars):
            parts.append(_bar(bar, y + i * _BAR))
        y += height + _BETWEEN
    grid = [_tick(at, y - _BETWEEN / 2) for at in (0, 25, 50, 75, 100)]
    return svg(_WIDTH, y + _AXIS - _BETWEEN / 2, *grid, *parts, label=label)


def _x(value: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(value, 0.0), 100.0) / 100


def _bar(bar: ScoreBar, y: float) -> Markup:
    thick = _BAR - 3
    parts = [
        element("title", bar.tip),
        element("rect", x=_LEFT, y=y, width=max(1.0, _x(bar.value) - _LEFT), height=thick, rx=2.0, class_="fill"),
    ]
    end = _x(bar.value)
    if bar.high > bar.low:
        middle, end = y + thick / 2, max(end, _x(bar.high))
        parts.append(element("line", x1=_x(bar.low), x2=_x(bar.high), y1=middle, y2=middle, class_="whisker"))
        parts += [
            element("line", x1=_x(at), x2=_x(at), y1=middle - 3, y2=middle + 3, class_="whisker")
            for at in (bar.low, bar.high)
        ]
    parts.append(element("text", f"{bar.value:.1f}", x=end + 5, y=y + thick - 1, class_="figure"))
    return element("g", join(*parts), class_=f"series-{bar.series}")


def _tick(at: int, bottom: float) -> Markup:
    return join(
        element("line", x1=_x(at), x2=_x(at), y1=_TOP - 4, y2=bottom, class_="grid"),
        element("text", str(at), x=_x(at), y=bottom + 15, text_anchor="middle", class_="quiet"),
    )
