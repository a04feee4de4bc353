"""Plots of a study: ERS against Recall@1 and against cost, curves over epochs, destinations, E[H] of the samplers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from hardrank.models.files import atomic_path
from hardrank.trainer.defenses.notation import parse_notation
from hardrank.trainer.studies.table import ers_range
from hardrank.trainer.studies.titles import title_offsets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Content = Mapping[str, Any]
Array = npt.NDArray[np.float64]

_SMALL: Final = 7
"""Font size of titles in a plot, in points."""

_LOOKS: Final = {
    "regular": ("#7f7f7f", "o"),
    "EST": ("#b07aa1", "v"),
    "ACT": ("#f28e2b", "s"),
    "HM": ("#4e79a7", "D"),
    "minmax": ("#e15759", "X"),
    "TRIDE": ("#59a14f", "P"),
}
"""Colors and markers of the families of defenses; readable with color blindness."""
_FREE: Final = (("#76b7b2", "^"), ("#9c755f", "<"), ("#edc948", ">"), ("#ff9da7", "p"), ("#17becf", "h"))
"""Colors and markers of other families, in the order of their rows."""


def write_plots(summary: Content, done: Sequence[Content], folder: Path) -> list[str]:
    """Write the plots that the results allow as SVG into `folder`, and return their names."""
    import matplotlib as mpl

    style: Any = {"svg.hashsalt": "hardrank", "svg.fonttype": "path", "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    plots: dict[str, Callable[[Figure], bool]] = {
        "ers_recall.svg": lambda figure: _ers_recall(figure, summary),
        "ers_cost.svg": lambda figure: _ers_cost(figure, summary),
        "curves.svg": lambda figure: _curves(figure, done),
        "destinations.svg": lambda figure: _destinations(figure, done),
        "samplers.svg": lambda figure: _samplers(figure, summary["samplers"]),
    }
    from matplotlib.figure import Figure as NewFigure

    written = []
    with mpl.rc_context(style):
        for name, draw in plots.items():
            figure = NewFigure(figsize=(7, 4.2), layout="constrained")
            if not draw(figure):
                continue
            with atomic_path(folder / name) as unfinished:
                figure.savefig(unfinished, format="svg", metadata={"Date": None})
            written.append(name)
    return written


def _family(defense: str) -> str:
    found = parse_notation(defense).family
    return {"N/A": "regular", "min-max": "minmax"}.get(found, found)


def line_styles(defenses: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return color and marker of each family among `defenses`."""
    families = list(dict.fromkeys(map(_family, defenses)))
    unknown = [family for family in families if family not in _LOOKS]
    return {family: _LOOKS.get(family) or _FREE[unknown.index(family) % len(_FREE)] for family in families}


def _points(summary: Content) -> list[Content]:
    return [row for row in summary["rows"] if row["ers"] is not None]


def _ers_recall(figure: "Figure", summary: Content) -> bool:
    rows = _points(summary)
    if not rows:
        return False
    axes = figure.subplots()
    points = [(row, _as_percent(row["metrics"]["recall_at_1"]), ers_range(row)) for row in rows]
    _draw_curves(axes, summary)
    _draw(figure, axes, points)
    axes.set_xlabel("Recall@1 of benign queries, %")
    axes.set_ylabel("ERS")
    axes.set_title("Up and right is better; gray: the Pareto front", loc="left", fontsize=9, color="0.4")
    axes.margins(x=0.35)  # room for titles
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    _name(axes, points)
    return True


def _draw_curves(axes: "Axes", summary: Content) -> None:
    """Draw the curve of each defense over its strength, and the Pareto front of all rows that have not collapsed."""
    places = {
        row["title"]: (100 * row["metrics"]["recall_at_1"]["mean"], row["ers"]["mean"]) for row in _points(summary)
    }
    styles = line_styles(row["defense"] for row in _points(summary))
    colors = {row["title"]: styles[_family(row["defense"])][0] for row in _points(summary)}
    for titles in summary["curves"].values():
        if known := [title for title in titles if title in places]:
            curve = sorted(places[title] for title in known)
            axes.plot(*zip(*curve, strict=True), color=colors[known[-1]], linewidth=0.7, alpha=0.6, zorder=0)
    healthy = [places[row["title"]] for row in _points(summary) if not row["collapsed"]]
    front = [one for one in healthy if not any(x >= one[0] and y >= one[1] and (x, y) != one for x, y in healthy)]
    if front:
        axes.plot(*zip(*sorted(front), strict=True), color="0.8", linewidth=4, zorder=-1)


def _as_percent(spread: Content) -> dict[str, float]:
    return {name: 100 * spread[name] for name in ("mean", "low", "high")}


def _draw(figure: "Figure", axes: "Axes", points: Sequence[tuple[Content, Content, Content]]) -> None:
    """Draw the points with their error bars, and the legend."""
    figure.set_figheight(4.2 + 0.12 * max(0, len(points) - 8))  # room for many titles
    from matplotlib.lines import Line2D

    styles = line_styles(row["defense"] for row, _, _ in points)
    for row, x, y in points:
        _point(axes, row, x, y, styles[_family(row["defense"])])
    keys = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=family)
        for family, (color, marker) in styles.items()
    ]
    if any(row["collapsed"] for row, _, _ in points):
        hollow: Any = {"color": "0.3", "marker": "o", "markerfacecolor": "white", "linestyle": ""}
        keys.append(Line2D([], [], label="hollow: collapsed", **hollow))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=_SMALL, frameon=False)


def _point(axes: "Axes", row: Content, x: Content, y: Content, style: tuple[str, str]) -> None:
    color, marker = style
    axes.errorbar(
        x["mean"],
        y["mean"],
        xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
        yerr=[
            [max(0, y["mean"] - y["low"])],
            [max(0, y["high"] - y["mean"])],
        ],  # intervals may exclude the mean
        color=color,
        marker=marker,
        markerfacecolor="white" if row["collapsed"] else color,
        markersize=6,
        linewidth=0.8,
    )


def _name(axes: "Axes", points: Sequence[tuple[Content, Content, Content]]) -> None:
    """Write each row's title beside its point, where it covers no other title, point or error bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    figure.draw_without_rendering()  # which settles the layout
    pixels = figure.dpi / 72
    frame = np.array(axes.get_window_extent().extents) / pixels
    points = sorted(points, key=lambda point: -point[2]["mean"])
    centers = axes.transData.transform([(x["mean"], y["mean"]) for _, x, y in points]) / pixels
    titles = [row["title"] for row, _, _ in points]
    sizes = []
    for title in titles:
        probe = axes.text(0, 0, title, fontsize=_SMALL)
        extent = probe.get_window_extent(renderer)
        sizes.append((extent.width / pixels, extent.height / pixels))
        probe.remove()
    offsets = title_offsets(centers, np.array(sizes), frame, _bars(axes, points) / pixels)
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


def _ers_cost(figure: "Figure", summary: Content) -> bool:
    rows = _points(summary)
    if len({row["cost"] for row in rows}) < 2:
        return False
    axes = figure.subplots()
    costs = sorted({row["cost"] for row in rows})
    apart = 0.03 * (costs[-1] - costs[0])
    ranked = sorted(rows, key=lambda row: (row["cost"], row["ers"]["mean"]))
    points = [
        # Side by side, since most rows share a cost and would cover each other.
        (row, dict.fromkeys(("mean", "low", "high"), row["cost"] + apart * (index % 3 - 1)), ers_range(row))
        for index, row in enumerate(ranked)
    ]
    _draw(figure, axes, points)
    axes.set_xlabel("training cost η + 1, forward-backward passes an iteration (equal ones are drawn side by side)")
    axes.set_ylabel("ERS")
    axes.set_xticks(costs)
    axes.margins(x=0.45)
    _name(axes, points)
    return True


def _curves(figure: "Figure", done: Sequence[Content]) -> bool:
    shown = [result for result in done if result["curve"] and result["seed"] == min(r["seed"] for r in done)]
    if not shown:
        return False
    panels = figure.subplots(1, 3)
    for index, result in enumerate(shown):
        color = f"C{index % 10}"
        style = "-" if index < 10 else "--"
        epochs = [point["epoch"] for point in result["curve"]]
        panels[0].plot(epochs, [point["ers"] for point in result["curve"]], style, color=color, label=result["title"])
        panels[1].plot(epochs, [100 * point["recall_at_1"] for point in result["curve"]], style, color=color)
        log = result["log"]
        last = max(epochs) or 1.0
        if log:
            steps = [step * last / log["step"][-1] for step in log["step"]]
            panels[2].plot(steps, log["triplet_loss"], style, color=color, linewidth=0.8)
    panels[2].set_yscale("log")  # the loss of a training that collapses lies far above the others
    for axes, title in zip(panels, ("ERS, few images", "Recall@1, %", "triplet loss"), strict=True):
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.set_size_inches(8.4, 4.4)
    return True


def _destinations(figure: "Figure", done: Sequence[Content]) -> bool:
    """Draw the destination of hardness manipulation over the updates."""
    first = min((result["seed"] for result in done), default=0)
    shown = [result for result in done if result["seed"] == first and any(result["log"].get("destination") or ())]
    if not shown:
        return False
    axes = figure.subplots()
    for index, result in enumerate(shown):
        style = ("-", "--", ":")[index // 10 % 3]
        axes.plot(result["log"]["step"], result["log"]["destination"], style, label=result["title"], linewidth=0.9)
    axes.set_xlabel("updates")
    axes.set_ylabel("destination of the hardness")
    figure.legend(loc="outside lower center", ncols=3, fontsize=_SMALL, frameon=False)
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
