"""Scores of models on a page: how much each withstands, by which attack, and whether to believe it."""

from collections.abc import Sequence
from typing import Final

from hardrank.audit_app.drawing.markup import Markup, element, join
from hardrank.audit_app.drawing.score_figures import SERIES, WANTED, part_bars, score_curves, score_radar
from hardrank.audit_app.drawing.words import number, plural, whole
from hardrank.audit_app.results.schema import FigureEntry
from hardrank.audit_app.results.scores import Scores

_NAMES: Final = {
    "recall_at_1": "Recall@1",
    "recall_at_2": "Recall@2",
    "mean_ap": "mAP",
    "map_at_r": "mAP@R",
    "nmi": "NMI",
    "mean_cosine": "mean cosine of pairs",
}
_SHORT: Final = ("recall_at_1", "mean_ap")


def score_tiles(models: Sequence[Scores]) -> Markup:
    """Give each model's score in large figures, benign quality beside it, and whether it can be trusted."""
    return element("div", *(_tile(i, model) for i, model in enumerate(models)), class_="cards")


def _tile(place: int, model: Scores) -> Markup:
    word = "ERS" if model.complete else "mean score"
    interval = f"95 %: {model.low:.1f} … {model.high:.1f}" if model.high > model.low else "no interval"
    trusted = not model.checks
    budget = f"ε {255 * model.epsilon:g}/255, {model.steps} steps"
    return element(
        "article",
        element("h3", element("span", class_=f"key series-{place % SERIES}"), model.name),
        element("p", model.told, class_="note"),
        element(
            "p", element("b", f"{model.score:.1f}"), element("small", f" {word} of 100 · {interval}"), class_="score"
        ),
        element(
            "dl",
            *(
                part
                for key in _SHORT
                if key in model.benign
                for part in (element("dt", f"{_NAMES[key]}, untouched"), element("dd", f"{model.benign[key]:.3f}"))
            ),
            element("dt", "attacked"),
            element(
                "dd",
                f"{whole(model.n)} of {plural(model.gallery, 'image', 'images')}, {budget}",
            ),
            class_="facts",
        ),
        element(
            "p",
            "no reason to distrust it was found" if trusted else plural(len(model.checks), "caution", "cautions"),
            class_="trust good" if trusted else "trust bad",
        ),
        class_="card",
    )


def cautions(models: Sequence[Scores]) -> Markup:
    """List why evaluations should not be trusted."""
    found = [
        element("li", element("b", f"{model.name}, {check.where}: {check.kind}."), f" {check.message}")
        for model in models
        for check in model.checks
    ]
    return element("ul", *found, class_="plain warn") if found else join()


def score_charts(models: Sequence[Scores]) -> Markup:
    """Draw the shape of what each model withstands, and its parts with intervals."""
    charts = [part_bars(models)]
    if len(models[0].figures) >= 3:
        charts.insert(0, score_radar(models))
    return element("div", *(element("div", chart, class_="chart") for chart in charts), class_="charts")


def curve_charts(models: Sequence[Scores]) -> list[Markup]:
    """Draw the budget curves that were measured."""
    return [element("div", chart, class_="chart") for chart in score_curves(models)]


def parts_table(models: Sequence[Scores]) -> Markup:
    """Give every figure with its interval, before, under noise, and its score."""
    head = element("tr", element("th", "result"), *(element("th", model.name) for model in models))
    rows = [
        element(
            "tr",
            element(
                "th", element("b", key), element("small", WANTED.get(key, models[0].figures[key].help)), scope="row"
            ),
            *(_cell(model.figures.get(key)) for model in models),
        )
        for key in models[0].figures
    ]
    rows += [
        element(
            "tr",
            element("th", _NAMES[key], element("small", "untouched images"), scope="row"),
            *(element("td", element("b", number(model.benign.get(key, float("nan"))))) for model in models),
        )
        for key in _NAMES
        if any(key in model.benign for model in models)
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _cell(figure: FigureEntry | None) -> Markup:
    if figure is None:
        return element("td", "–")
    unit = f" {figure.unit}" if figure.unit else ""
    return element(
        "td",
        element("b", f"{number(figure.value)}{unit}"),
        f" ({number(figure.low)} … {number(figure.high)})",
        element("small", f"untouched {number(figure.before)}, noise {number(figure.noise)}, score {figure.score:.1f}"),
    )
