"""Pictures of a study: ERS against Recall@1 and against cost, curves over epochs, E[H] of the samplers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from models.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Content = Mapping[str, Any]
Array = npt.NDArray[np.float64]

_SMALL: Final = 7
"""Points, of titles in a plot."""

_FAMILIES = {
    "regular": "#7f7f7f",
    "EST": "#b07aa1",
    "ACT": "#f28e2b",
    "HM": "#4e79a7",
    "minmax": "#e15759",
    "TRIDE": "#59a14f",
}
"""Colours of the families of defenses, that colour-blind people can tell apart."""
_MARKERS = {"regular": "o", "EST": "v", "ACT": "s", "HM": "D", "minmax": "X", "TRIDE": "P"}


def write_plots(summary: Content, done: Sequence[Content], folder: Path) -> list[str]:
    """Write the plots as SVG into `folder`; gives the names of those that the results allow."""
    import matplotlib as mpl

    style: Any = {"svg.hashsalt": "hardrank", "svg.fonttype": "path", "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    wanted: dict[str, Callable[[Figure], bool]] = {
        "ers_recall.svg": lambda figure: _ers_recall(figure, summary),
        "ers_cost.svg": lambda figure: _ers_cost(figure, summary),
        "curves.svg": lambda figure: _curves(figure, done),
        "samplers.svg": lambda figure: _samplers(figure, summary["samplers"]),
    }
    from matplotlib.figure import Figure as NewFigure

    written = []
    with mpl.rc_context(style):
        for name, draw in wanted.items():
            figure = NewFigure(figsize=(7, 4.2), layout="constrained")
            if not draw(figure):
                continue
            with atomic_path(folder / name) as unfinished:
                figure.savefig(unfinished, format="svg", metadata={"Date": None})
            written.append(name)
    return written


def _family(defense: str) -> str:
    found = defense.partition("[")[0].replace("N/A", "regular").replace("min-max", "minmax")
    return found if found in _FAMILIES else "HM"


def _points(summary: Content) -> list[Content]:
    return [row for row in summary["rows"] if row["ers"] is not None]


def _ers_recall(figure: "Figure", summary: Content) -> bool:
    rows = _points(summary)
    if not rows:
        return False
    axes = figure.subplots()
    points = [(row, _hundredfold(row["metrics"]["recall_at_1"]), row["ers"]) for row in rows]
    for row, recall, ers in points:
        _point(axes, row, recall, ers)
    axes.set_xlabel("Recall@1 of benign queries, %")
    axes.set_ylabel("ERS")
    axes.set_title("Up and right is better", loc="left", fontsize=9, color="0.4")
    axes.margins(x=0.2)  # room for titles
    _name(axes, points)
    return True


def _hundredfold(spread: Content) -> dict[str, float]:
    return {name: 100 * value for name, value in spread.items()}


def _point(axes: "Axes", row: Content, x: Content, y: Content) -> None:
    family = _family(row["defense"])
    axes.errorbar(
        x["mean"],
        y["mean"],
        xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
        yerr=[[y["mean"] - y["low"]], [y["high"] - y["mean"]]],
        color=_FAMILIES[family],
        marker=_MARKERS[family],
        markersize=6,
        linewidth=0.8,
    )


def _name(axes: "Axes", points: Sequence[tuple[Content, Content, Content]]) -> None:
    """Write each row's title beside its point, at the nearest place where it covers no title, point or error bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    figure.draw_without_rendering()  # which settles the layout
    pixels = figure.dpi / 72
    frame = np.array(axes.get_window_extent().extents) / pixels
    points = sorted(points, key=lambda point: -point[2]["mean"])
    centres = axes.transData.transform([(x["mean"], y["mean"]) for _, x, y in points]) / pixels
    titles = [row["title"] + (" (collapsed)" if row["collapsed"] else "") for row, _, _ in points]
    sizes = []
    for title in titles:
        probe = axes.text(0, 0, title, fontsize=_SMALL)
        extent = probe.get_window_extent(renderer)
        sizes.append((extent.width / pixels, extent.height / pixels))
        probe.remove()
    offsets = title_offsets(centres, np.array(sizes), frame, _bars(axes, points) / pixels)
    for title, (_, x, y), (dx, dy) in zip(titles, points, offsets, strict=True):
        axes.annotate(
            title,
            (x["mean"], y["mean"]),
            xytext=(dx, dy),
            textcoords="offset points",
            fontsize=_SMALL,
            verticalalignment="center",
            horizontalalignment="left" if dx > 0 else "right",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.6", "shrinkA": 0, "shrinkB": 3},
        ).set_in_layout(False)


def _bars(axes: "Axes", points: Sequence[tuple[Content, Content, Content]]) -> Array:
    """Boxes (2n,4) in pixels of the horizontal and the vertical error bars."""
    ends = [
        ends
        for _, x, y in points
        for ends in (
            ((x["low"], y["mean"]), (x["high"], y["mean"])),
            ((x["mean"], y["low"]), (x["mean"], y["high"])),
        )
    ]
    return axes.transData.transform(np.array(ends).reshape(-1, 2)).reshape(-1, 4)


def title_offsets(centres: Array, sizes: Array, frame: Array, bars: Array) -> list[tuple[int, int]]:
    """Where titles go that cover no point, bar or title before them and leave no frame, where there is such a place.

    `centres` (n,2) of the points, `sizes` (n,2) of the titles, `frame` and `bars` (m,4) as left, bottom, right, top,
    all in points of 1/72 inch. Gives offsets (dx, dy) from a point to the middle of its title's left end, or right end
    where dx < 0.
    """
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in centres]
    taken += [(left - 1, bottom - 1, right + 1, top + 1) for left, bottom, right, top in bars]
    chosen = []
    for (x, y), (width, height) in zip(centres, sizes, strict=True):
        boxes = [_box(x + dx, y + dy, width if dx > 0 else -width, height) for dx, dy in _PLACES]
        outside = [width * height - _shared(frame, box) for box in boxes]
        covered = [sum(_shared(box, other) for other in taken) for box in boxes]
        best = int(np.argmin([round(a + 4 * b, 3) for a, b in zip(covered, outside, strict=True)]))
        chosen.append(_PLACES[best])
        taken.append(boxes[best])
    return chosen


_PLACES: Final = sorted(
    ((dx, dy) for dx in (7, -7, 25, -25, 50, -50, 75, -75) for dy in range(-90, 91, 5)),
    key=lambda place: (abs(place[0]) + abs(place[1]), -place[0]),
)
"""Offsets of a title from its point, in points; the nearest first."""


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return min(x, x + width), y - height / 2, max(x, x + width), y + height / 2


def _shared(one: Sequence[float] | Array, other: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _ers_cost(figure: "Figure", summary: Content) -> bool:
    rows = _points(summary)
    if len({row["cost"] for row in rows}) < 2:
        return False
    axes = figure.subplots()
    points = [(row, dict.fromkeys(("mean", "low", "high"), row["cost"]), row["ers"]) for row in rows]
    for row, cost, ers in points:
        _point(axes, row, cost, ers)
    axes.set_xlabel("training cost η + 1, forward-backward passes an iteration")
    axes.set_ylabel("ERS")
    axes.set_xticks(sorted({row["cost"] for row in rows}))
    axes.margins(x=0.45)
    _name(axes, points)
    return True


def _curves(figure: "Figure", done: Sequence[Content]) -> bool:
    shown = [result for result in done if result["curve"] and result["seed"] == min(r["seed"] for r in done)]
    if not shown:
        return False
    panels = figure.subplots(1, 3)
    for index, result in enumerate(shown):
        colour = f"C{index % 10}"
        style = "-" if index < 10 else "--"
        epochs = [point["epoch"] for point in result["curve"]]
        panels[0].plot(epochs, [point["ers"] for point in result["curve"]], style, color=colour, label=result["title"])
        panels[1].plot(epochs, [100 * point["recall_at_1"] for point in result["curve"]], style, color=colour)
        log = result["log"]
        last = max(epochs) or 1.0
        steps = [step * last / log["step"][-1] for step in log["step"]]
        panels[2].plot(steps, log["triplet_loss"], style, color=colour, linewidth=0.8)
    for axes, title in zip(panels, ("ERS, few images", "Recall@1, %", "triplet loss"), strict=True):
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.set_size_inches(8.4, 4.4)
    return True


def _samplers(figure: "Figure", samplers: Content) -> bool:
    if not samplers:
        return False
    axes = figure.subplots()
    names = list(samplers)
    means = [samplers[name]["mean"] for name in names]
    spreads = [samplers[name]["variance"] ** 0.5 for name in names]
    axes.bar(names, means, yerr=spreads, color="#4e79a7", width=0.6, error_kw={"linewidth": 0.8})
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_ylabel("E[H], with the standard deviation over batches")
    axes.set_xlabel("sampler")
    figure.set_size_inches(5, 3.4)
    return True
