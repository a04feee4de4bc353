"""ModelScores of models on a page: overall_score, by attack, and whether they can be trusted."""

from collections.abc import Sequence
from typing import Final

from hardrank.audit_app.drawing.formatting import format_count, format_number, format_plural, sanity_verdict
from hardrank.audit_app.drawing.markup import Markup, element, join
from hardrank.audit_app.drawing.score_figures import SERIES, goal_of, part_bars, score_curves, score_radar
from hardrank.audit_app.results.schema import FigureEntry
from hardrank.audit_app.results.scores import ModelScores

_NAMES: Final = {
    "recall_at_1": "Recall@1",
    "recall_at_2": "Recall@2",
    "mean_ap": "mAP",
    "map_at_r": "mAP@R",
    "nmi": "NMI",
    "mean_cosine": "mean cosine of pairs",
}
_SHORT: Final = ("recall_at_1", "mean_ap")


def score_tiles(models: Sequence[ModelScores]) -> Markup:
    """Show each model's score, its retrieval metrics on clean images, and whether the score can be trusted."""
    return element("div", *(_tile(i, model) for i, model in enumerate(models)), class_="cards")


def _tile(place: int, model: ModelScores) -> Markup:
    word = "ERS" if model.complete else "mean score"
    interval = f"95 %: {model.low:.1f} … {model.high:.1f}" if model.high > model.low else "no interval"
    trusted = not model.checks
    budget = f"ε {255 * model.epsilon:g}/255, {model.steps} steps"
    return element(
        "article",
        element("h3", element("span", class_=f"key series-{place % SERIES}"), model.name),
        element("p", model.description, class_="note"),
        element(
            "p", element("b", f"{model.score:.1f}"), element("small", f" {word} of 100 · {interval}"), class_="score"
        ),
        element(
            "dl",
            *(
                part
                for key in _SHORT
                if key in model.benign
                for part in (element("dt", f"{_NAMES[key]}, clean"), element("dd", f"{model.benign[key]:.3f}"))
            ),
            element("dt", "attacked"),
            element(
                "dd",
                f"{format_count(model.n)} of {format_plural(model.gallery, 'image', 'images')}, {budget}",
            ),
            class_="facts",
        ),
        element(
            "p",
            sanity_verdict([check.kind for check in model.checks]),
            class_="trust good" if trusted else "trust bad",
        ),
        class_="card",
    )


def failed_checks(models: Sequence[ModelScores]) -> Markup:
    """List the sanity checks that failed."""
    found = [
        element("li", element("b", f"{model.name}, {check.where}: {check.kind}."), f" {check.message}")
        for model in models
        for check in model.checks
    ]
    return element("ul", *found, class_="plain warn") if found else join()


def score_charts(models: Sequence[ModelScores]) -> Markup:
    """Draw the parts of each model's score, as bars with intervals and as a radar."""
    charts = [part_bars(models)]
    if len(models[0].figures) >= 3:
        charts.insert(0, score_radar(models))
    return element("div", *(element("div", chart, class_="chart") for chart in charts), class_="charts")


def curve_charts(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the measured budget curves."""
    return [element("div", chart, class_="chart") for chart in score_curves(models)]


def parts_table(models: Sequence[ModelScores]) -> Markup:
    """Tabulate every figure with its interval, its clean value, its value under noise, and its score."""
    head = element("tr", element("th", "result"), *(element("th", model.name) for model in models))
    rows = [
        element(
            "tr",
            element("th", element("b", key), element("small", goal_of(key, models[0].figures[key].help)), scope="row"),
            *(_cell(model.figures.get(key)) for model in models),
        )
        for key in models[0].figures
    ]
    rows += [
        element(
            "tr",
            element("th", _NAMES[key], element("small", "clean images"), scope="row"),
            *(element("td", element("b", format_number(model.benign.get(key, float("nan"))))) for model in models),
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
        element("b", f"{format_number(figure.value)}{unit}"),
        f" ({format_number(figure.low)} … {format_number(figure.high)})",
        element(
            "small",
            f"clean {format_number(figure.before)}, noise {format_number(figure.noise)}, score {figure.score:.1f}",
        ),
    )
