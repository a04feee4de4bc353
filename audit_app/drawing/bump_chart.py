"""Bump chart: the first items of a ranking before and after, a line per item, and how far each moved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hardrank.audit_app.drawing.markup import Markup, element, join, svg
from hardrank.audit_app.ranking.movement import RankingMovement

_WIDTH: Final = 400.0
_ROW: Final = 46.0
_TOP: Final = 26.0
_SIDE: Final = 38.0
"""Side of a thumbnail."""
_LEFT: Final = 96.0
"""Where the left thumbnails begin."""
_RIGHT: Final = _WIDTH - _LEFT - _SIDE
"""Where the right thumbnails begin."""


@dataclass(frozen=True, kw_only=True)
class ChartItems:
    """How to draw the items of the gallery."""

    image: Callable[[int], str]
    """Row → `data:` URI of its image."""
    name: Callable[[int], str]
    """Row → its name, for tooltips."""
    marked: Sequence[int] = ()
    """Rows to highlight: the targets, or the attacked candidate."""


def bump_chart(movement: RankingMovement, items: ChartItems, *, label: str) -> Markup:
    """Draw the first items before (left) and after (right); marked items outside both get their own row below."""
    outside = [row for row in items.marked if movement.before[row] > movement.k and movement.after[row] > movement.k]
    rows = movement.k + len(outside)
    height = _TOP + rows * _ROW + (10 if outside else 0)
    parts = [_heading(_LEFT + _SIDE / 2, "before"), _heading(_RIGHT + _SIDE / 2, "after")]
    parts += [_line(movement, items, row) for row in _lined(movement, items)]
    parts += [_left(movement, items, row) for row in movement.top_before.tolist()]
    parts += [_right(movement, items, row) for row in movement.top_after.tolist()]
    parts += [_outside(movement, items, row, movement.k + i) for i, row in enumerate(outside)]
    return svg(_WIDTH, height, *parts, label=label)


def _lined(movement: RankingMovement, items: ChartItems) -> list[int]:
    """Return the rows with a line; marked ones last, so that they are drawn on top."""
    rows = dict.fromkeys([*movement.top_before.tolist(), *movement.top_after.tolist()])
    return sorted(rows, key=lambda row: row in items.marked)


def _y(place: int) -> float:
    """Return the vertical center of a place, counted from 0."""
    return _TOP + place * _ROW + _ROW / 2


def _heading(x: float, text: str) -> Markup:
    return element("text", text, x=x, y=14, text_anchor="middle", class_="quiet")


def _style(movement: RankingMovement, items: ChartItems, row: int) -> str:
    """Return the CSS class of an item: marked, or how it moved."""
    if row in items.marked:
        return "marked"
    before, after = int(movement.before[row]), int(movement.after[row])
    if before > movement.k:
        return "entered"
    if after > movement.k:
        return "gone"
    return "still" if before == after else "moved"


def _line(movement: RankingMovement, items: ChartItems, row: int) -> Markup:
    before, after, k = int(movement.before[row]), int(movement.after[row]), movement.k
    start, end = _LEFT + _SIDE + 4, _RIGHT - 4
    style = _style(movement, items, row)
    if before <= k and after <= k:
        one, other, middle = _y(before - 1), _y(after - 1), (start + end) / 2
        path = f"M{start:g},{one:g} C{middle:g},{one:g} {middle:g},{other:g} {end:g},{other:g}"
    elif before <= k:  # it left the first items
        path = f"M{start:g},{_y(before - 1):g} h34"
    else:
        path = f"M{end - 34:g},{_y(after - 1):g} h34"
    return element("path", d=path, class_=f"line {style}", fill="none")


def _picture(items: ChartItems, row: int, x: float, y: float, style: str, caption: str) -> Markup:
    return element(
        "g",
        element("title", f"{items.name(row)}: {caption}"),
        element(
            "image",
            href=items.image(row),
            x=x,
            y=y - _SIDE / 2,
            width=_SIDE,
            height=_SIDE,
            class_="pixels",
            preserveAspectRatio="none",
        ),
        element("rect", x=x, y=y - _SIDE / 2, width=_SIDE, height=_SIDE, rx=4, fill="none", class_=f"frame {style}"),
    )


def _describe_move(movement: RankingMovement, row: int) -> str:
    """Describe an item's rank before and after."""
    return f"rank {movement.before[row]} → {movement.after[row]}"


def _left(movement: RankingMovement, items: ChartItems, row: int) -> Markup:
    rank, style = int(movement.before[row]), _style(movement, items, row)
    y = _y(rank - 1)
    parts = [
        _picture(items, row, _LEFT, y, style, _describe_move(movement, row)),
        element("text", str(rank), x=_LEFT - 8, y=y + 4, text_anchor="end", class_="rank"),
    ]
    if movement.after[row] > movement.k:
        parts.append(
            element("text", f"→ {movement.after[row]}", x=_LEFT + _SIDE + 42, y=y + 4, class_=f"badge {style}")
        )
    return join(*parts)


def _right(movement: RankingMovement, items: ChartItems, row: int) -> Markup:
    rank, style, risen = int(movement.after[row]), _style(movement, items, row), int(movement.rank_gain[row])
    y = _y(rank - 1)
    badge = f"▲ {risen}" if risen > 0 else f"▼ {-risen}" if risen < 0 else "="
    return join(
        _picture(items, row, _RIGHT, y, style, _describe_move(movement, row)),
        element("text", str(rank), x=_RIGHT + _SIDE + 8, y=y + 4, class_="rank"),
        element("text", badge, x=_WIDTH - 4, y=y + 4, text_anchor="end", class_=f"badge {style if risen else 'quiet'}"),
    )


def _outside(movement: RankingMovement, items: ChartItems, row: int, place: int) -> Markup:
    y = _y(place) + 10
    return join(
        element("line", x1=_LEFT, x2=_RIGHT + _SIDE, y1=y - _ROW / 2, y2=y - _ROW / 2, class_="divider"),
        _picture(items, row, _LEFT, y, "marked", _describe_move(movement, row)),
        element("text", str(movement.before[row]), x=_LEFT - 8, y=y + 4, text_anchor="end", class_="rank"),
        element("path", d=f"M{_LEFT + _SIDE + 4:g},{y:g} H{_RIGHT - 4:g}", class_="line marked dashed", fill="none"),
        _picture(items, row, _RIGHT, y, "marked", _describe_move(movement, row)),
        element("text", str(movement.after[row]), x=_RIGHT + _SIDE + 8, y=y + 4, class_="rank"),
    )
