"""Sketches of the embedding space as SVG, readable on light and on dark backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import hypot
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 300, 170
_HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
    'role="img" font-family="sans-serif" font-size="13">'
)


class Color(StrEnum):
    """Medium tones, readable on white and on black."""

    QUERY = "#3b82c4"
    OWN = "#2f9e63"
    OTHER = "#d1782b"
    ITEM = "#8b93a1"


@dataclass(frozen=True)
class Dot:
    """An embedding at x in [0,300] and y in [0,170]."""

    x: float
    y: float
    label: str = ""
    color: Color = Color.ITEM
    hollow: bool = False
    """Whether it is the embedding of a perturbed image."""


@dataclass(frozen=True)
class Arrow:
    """A movement, or a distance if it is dashed."""

    start: Dot
    end: Dot
    dashed: bool = False
    color: Color = Color.ITEM


@dataclass(frozen=True)
class Ring:
    """A neighborhood."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The sketch of one attack or defense."""

    title: str
    dots: Sequence[Dot] = field(default_factory=tuple)
    arrows: Sequence[Arrow] = field(default_factory=tuple)
    rings: Sequence[Ring] = field(default_factory=tuple)

    def svg(self) -> str:
        """Return the sketch as the text of an SVG file."""
        parts = [_HEAD, f"<title>{escape(self.title)}</title>"]
        parts += [_ring(ring) for ring in self.rings]
        parts += [_arrow(arrow) for arrow in self.arrows]
        parts += [_dot(dot) for dot in self.dots]
        return "\n".join([*parts, "</svg>\n"])


def _ring(ring: Ring) -> str:
    return (
        f'<circle cx="{ring.x:g}" cy="{ring.y:g}" r="{ring.radius:g}" fill="none" stroke="{Color.ITEM}" '
        'stroke-dasharray="2 4"/>'
    )


def _arrow(arrow: Arrow) -> str:
    dx, dy = arrow.end.x - arrow.start.x, arrow.end.y - arrow.start.y
    length = hypot(dx, dy)
    ux, uy = dx / length, dy / length
    x0, y0 = arrow.start.x + 8 * ux, arrow.start.y + 8 * uy
    x1, y1 = arrow.end.x - 8 * ux, arrow.end.y - 8 * uy
    if arrow.dashed:
        return f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{arrow.color}" stroke-dasharray="4 4"/>'
    tip = f"M{x1:.1f} {y1:.1f}l{-9 * ux + 4 * uy:.1f} {-9 * uy - 4 * ux:.1f}l{-8 * uy:.1f} {8 * ux:.1f}z"
    return (
        f'<path d="M{x0:.1f} {y0:.1f}L{x1 - 6 * ux:.1f} {y1 - 6 * uy:.1f}" stroke="{arrow.color}" stroke-width="2"/>'
        f'<path d="{tip}" fill="{arrow.color}"/>'
    )


def _dot(dot: Dot) -> str:
    fill = "none" if dot.hollow else dot.color
    circle = f'<circle cx="{dot.x:g}" cy="{dot.y:g}" r="6" fill="{fill}" stroke="{dot.color}" stroke-width="2"/>'
    text = (
        f'<text x="{dot.x + 10:g}" y="{dot.y - 8:g}" fill="{dot.color}">{escape(dot.label)}</text>' if dot.label else ""
    )
    return circle + text
