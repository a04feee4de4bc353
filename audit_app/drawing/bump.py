"""A bump chart: the head of a ranking before and after, a line for each item, how far each has moved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
class Pictured:
    """What a figure knows of the gallery's items."""

    image: Callable[[int], str]
    """Address (`data:`) of a row's picture."""
    name: Callable[[int], str]
    """What a row is called, for tooltips."""
    marked: Sequence[int] = ()
    """Rows that the attack is about."""
    titles: Mapping[int, str] = field(default_factory=dict)
    """Words to stand beside some rows."""


def bump_chart(movement: RankingMovement, shown: Pictured, *, label: str) -> Markup:
    """Draw the heads before (left) and after (right); marked items outside both get a line of their own below."""
    outside = [row for row in shown.marked if movement.before[row] > movement.k and movement.after[row] > movement.k]
    rows = movement.k + len(outside)
    height = _TOP + rows * _ROW + (10 if outside else 0)
    parts = [_heading(_LEFT + _SIDE / 2, "before"), _heading(_RIGHT + _SIDE / 2, "after")]
    parts += [_line(movement, shown, row) for row in _lined(movement, shown)]
    parts += [_left(movement, shown, row) for row in movement.top_before.tolist()]
    parts += [_right(movement, shown, row) for row in movement.top_after.tolist()]
    parts += [_outside(movement, shown, row, movement.k + i) for i, row in enumerate(outside)]
    return svg(_WIDTH, height, *parts, label=label)


def _lined(movement: RankingMovement, shown: Pictured) -> list[int]:
    """Rows with a line, marked ones last, so that they lie on top."""
    rows = dict.fromkeys([*movement.top_before.tolist(), *movement.top_after.tolist()])
    return sorted(rows, key=lambda row: row in shown.marked)


def _y(place: int) -> float:
    """Middle of the line of a place counted from 0."""
    return _TOP + place * _ROW + _ROW / 2


def _heading(x: float, text: str) -> Markup:
    return element("text", text, x=x, y=14, text_anchor="middle", class_="quiet")


def _kind(movement: RankingMovement, shown: Pictured, row: int) -> str:
    """Class of an item: the attacked one, or how it moved."""
    if row in shown.marked:
        return "marked"
    before, after = int(movement.before[row]), int(movement.after[row])
    if before > movement.k:
        return "entered"
    if after > movement.k:
        return "gone"
    return "still" if before == after else "moved"


def _line(movement: RankingMovement, shown: Pictured, row: int) -> Markup:
    before, after, k = int(movement.before[row]), int(movement.after[row]), movement.k
    start, end = _LEFT + _SIDE + 4, _RIGHT - 4
    kind = _kind(movement, shown, row)
    if before <= k and after <= k:
        one, other, middle = _y(before - 1), _y(after - 1), (start + end) / 2
        path = f"M{start:g},{one:g} C{middle:g},{one:g} {middle:g},{other:g} {end:g},{other:g}"
    elif before <= k:  # it left: the line fades on its way out
        path = f"M{start:g},{_y(before - 1):g} h34"
    else:
        path = f"M{end - 34:g},{_y(after - 1):g} h34"
    return element("path", d=path, class_=f"line {kind}", fill="none")


def _picture(shown: Pictured, row: int, x: float, y: float, kind: str, told: str) -> Markup:
    return element(
        "g",
        element("title", f"{shown.name(row)}: {told}"),
        element(
            "image",
            href=shown.image(row),
            x=x,
            y=y - _SIDE / 2,
            width=_SIDE,
            height=_SIDE,
            class_="pixels",
            preserveAspectRatio="none",
        ),
        element("rect", x=x, y=y - _SIDE / 2, width=_SIDE, height=_SIDE, rx=4, fill="none", class_=f"frame {kind}"),
    )


def told_move(movement: RankingMovement, row: int) -> str:
    """Say where an item stood and stands."""
    return f"rank {movement.before[row]} → {movement.after[row]}"


def _left(movement: RankingMovement, shown: Pictured, row: int) -> Markup:
    rank, kind = int(movement.before[row]), _kind(movement, shown, row)
    y = _y(rank - 1)
    parts = [
        _picture(shown, row, _LEFT, y, kind, told_move(movement, row)),
        element("text", str(rank), x=_LEFT - 8, y=y + 4, text_anchor="end", class_="rank"),
    ]
    if movement.after[row] > movement.k:
        parts.append(element("text", f"→ {movement.after[row]}", x=_LEFT + _SIDE + 42, y=y + 4, class_=f"badge {kind}"))
    return join(*parts)


def _right(movement: RankingMovement, shown: Pictured, row: int) -> Markup:
    rank, kind, risen = int(movement.after[row]), _kind(movement, shown, row), int(movement.risen_by[row])
    y = _y(rank - 1)
    badge = f"▲ {risen}" if risen > 0 else f"▼ {-risen}" if risen < 0 else "="
    return join(
        _picture(shown, row, _RIGHT, y, kind, told_move(movement, row)),
        element("text", str(rank), x=_RIGHT + _SIDE + 8, y=y + 4, class_="rank"),
        element("text", badge, x=_WIDTH - 4, y=y + 4, text_anchor="end", class_=f"badge {kind if risen else 'quiet'}"),
    )


def _outside(movement: RankingMovement, shown: Pictured, row: int, place: int) -> Markup:
    y = _y(place) + 10
    return join(
        element("line", x1=_LEFT, x2=_RIGHT + _SIDE, y1=y - _ROW / 2, y2=y - _ROW / 2, class_="divider"),
        _picture(shown, row, _LEFT, y, "marked", told_move(movement, row)),
        element("text", str(movement.before[row]), x=_LEFT - 8, y=y + 4, text_anchor="end", class_="rank"),
        element("path", d=f"M{_LEFT + _SIDE + 4:g},{y:g} H{_RIGHT - 4:g}", class_="line marked dashed", fill="none"),
        _picture(shown, row, _RIGHT, y, "marked", told_move(movement, row)),
        element("text", str(movement.after[row]), x=_RIGHT + _SIDE + 8, y=y + 4, class_="rank"),
    )
