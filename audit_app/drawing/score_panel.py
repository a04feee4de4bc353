"""Scores of models on a page: overall, by attack, and whether they can be trusted."""

from collections.abc import Sequence
from typing import Final

from hardrank.audit_app.drawing.formatting import (
    format_count,
    format_number,
    format_plural,
    format_score,
    sanity_verdict,
)
from hardrank.audit_app.drawing.markup import Markup, element, join
from hardrank.audit_app.drawing.score_figures import SERIES, goal_of, part_bars, score_curves, score_radar
from hardrank.audit_app.results.schema import FigureEntry
from hardrank.audit_app.results.scores import ModelScores, split_by_knowledge

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
    """Show each model's score, its retrieval metrics on clean images, and whether the score can be trusted.

    Upper bounds follow in a row of their own.
    """
    rows = [
        element("div", *(_tile(i, model) for i, model in group), class_="cards") for group in split_by_knowledge(models)
    ]
    return join(*rows)


def _tile(place: int, model: ModelScores) -> Markup:
    word = "ERS" if model.complete else "mean score"
    bound = ", upper bound (no gradients)" if model.upper_bound else ""
    interval = f"95 %: {model.low:.1f} … {model.high:.1f}" if model.high > model.low else "no interval"
    trusted = not model.checks
    score = format_score(model.score, upper_bound=model.upper_bound)
    return element(
        "article",
        element("h3", element("span", class_=f"key series-{place % SERIES}"), model.name),
        element("p", model.description, class_="note"),
        element("p", element("b", score), element("small", f" {word} of 100{bound} · {interval}"), class_="score"),
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
                f"{format_count(model.n)} of {format_plural(model.gallery, 'image', 'images')}, {model.budget}, "
                f"{model.effort}",
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
    charts = part_bars(models)
    if (drawn := score_radar(models)) is not None:
        charts.insert(0, drawn)
    return element("div", *(element("div", chart, class_="chart") for chart in charts), class_="charts")


def curve_charts(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the measured budget curves."""
    return [element("div", chart, class_="chart") for chart in score_curves(models)]


def parts_table(models: Sequence[ModelScores]) -> Markup:
    """Tabulate every figure with its interval, its clean value, its value under noise, and its score.

    Upper bounds get a table of their own.
    """
    return join(*(_parts_table([model for _, model in group]) for group in split_by_knowledge(models)))


def _parts_table(models: Sequence[ModelScores]) -> Markup:
    head = element(
        "tr",
        element("th", "result, upper bounds" if models[0].upper_bound else "result"),
        *(element("th", model.name) for model in models),
    )
    rows = [
        element(
            "tr",
            element("th", element("b", key), element("small", goal_of(key, models[0].figures[key].help)), scope="row"),
            *(_cell(model.figures.get(key), upper_bound=model.upper_bound) for model in models),
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


def _cell(figure: FigureEntry | None, *, upper_bound: bool) -> Markup:
    if figure is None:
        return element("td", "–")
    unit = f" {figure.unit}" if figure.unit else ""
    return element(
        "td",
        element("b", f"{format_number(figure.value)}{unit}"),
        f" ({format_number(figure.low)} … {format_number(figure.high)})",
        element(
            "small",
            f"clean {format_number(figure.before)}, noise {format_number(figure.noise)}, "
            f"score {format_score(figure.score, upper_bound=upper_bound)}",
        ),
    )
