"""The plot of scores by rank, as inline SVG that scales with its container and uses the page's colors."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final

_HEIGHT: Final = 180
_TOP: Final = 14
_BOTTOM: Final = 152
_LEFT: Final = 9.0
_RIGHT: Final = 97.0
_MAX_TICKS: Final = 10
_STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

Line = tuple[str, Sequence[float]]
"""A model's title and its scores, best first."""


def score_plot(lines: Sequence[Line]) -> str:
    """Return an SVG element with one line per model, or an empty string without scores.

    Widths are in percent and heights in pixels, so that text keeps its size on a narrow screen.
    """
    drawn = [(title, values) for title, values in lines if values]
    if not drawn:
        return ""
    low, high, step = _range([value for _, values in drawn for value in values])
    ranks = max(len(values) for _, values in drawn)

    def x(rank: int) -> float:
        return (_LEFT + _RIGHT) / 2 if ranks == 1 else _LEFT + (_RIGHT - _LEFT) * (rank - 1) / (ranks - 1)

    def y(score: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (score - low) / (high - low)

    parts = [_horizontal(low + step * tick, y(low + step * tick)) for tick in range(round((high - low) / step) + 1)]
    parts += [_tick(rank, x(rank)) for rank in _ticks(ranks)]
    for number, (_, values) in enumerate(drawn):
        points = [(x(rank), y(score)) for rank, score in enumerate(values, start=1)]
        parts += [f'<g class="hr-line hr-line-{number}">', *_line(points), "</g>"]
    summary = escape(_summary(drawn), quote=True)
    head = f'<svg class="hr-plot" width="100%" height="{_HEIGHT}" role="img" aria-label="{summary}">'
    return f"{head}{''.join(parts)}</svg>"


def legend(titles: Sequence[str]) -> str:
    """Return the legend of the plot."""
    entries = (
        f'<span class="hr-key"><i class="hr-dot hr-dot-{number}"></i>{escape(title)}</span>'
        for number, title in enumerate(titles)
    )
    return f'<div class="hr-legend" aria-hidden="true">{"".join(entries)}</div>'


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    """Return round bounds of the values and the distance between grid lines, of which there are two to six."""
    low, high = min(values), max(values)
    step = next((step for step in _STEPS if (high - low) / step <= 4), _STEPS[-1])
    bottom, top = _floor(low / step) * step, -_floor(-high / step) * step
    return (bottom, top if top > bottom else bottom + step, step)


def _floor(value: float) -> int:
    # Tolerates rounding errors of bounds that are multiples of the step.
    return int((value + 1e-9) // 1)


def _ticks(ranks: int) -> list[int]:
    every = -(-ranks // _MAX_TICKS)
    return [1, *(rank for rank in range(every, ranks + 1, every) if rank > 1)]


def _horizontal(score: float, y: float) -> str:
    return (
        f'<line class="hr-grid" x1="{_LEFT - 2}%" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="hr-axis" x="{_LEFT - 3}%" y="{y + 4:.1f}" text-anchor="end">{abs(score) and score:.2f}</text>'
    )


def _tick(rank: int, x: float) -> str:
    return f'<text class="hr-axis" x="{x:.2f}%" y="{_BOTTOM + 20}" text-anchor="middle">{rank}</text>'


def _line(points: Sequence[tuple[float, float]]) -> list[str]:
    parts = [
        f'<line x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}"/>' for (x1, y1), (x2, y2) in pairwise(points)
    ]
    return parts + [f'<circle cx="{x:.2f}%" cy="{y:.1f}" r="3.5"/>' for x, y in points]


def _summary(lines: Sequence[Line]) -> str:
    parts = (f"{title}: from {values[0]:.3f} to {values[-1]:.3f}" for title, values in lines)
    return "Scores by rank. " + "; ".join(parts)
