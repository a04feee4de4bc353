"""Scores of models on a page: overall, by attack, and whether they can be trusted."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from hardrank.audit_app.drawing.formatting import format_count, format_figure, format_plural, format_score
from hardrank.audit_app.drawing.markup import Markup, element, join, series_key
from hardrank.audit_app.drawing.score_figures import SERIES, goal_of, part_bars, score_curves, score_radar
from hardrank.audit_app.results.schema import CheckEntry, FigureEntry
from hardrank.audit_app.results.scores import ModelScores, split_by_knowledge
from hardrank.audit_app.results.verdict import cost_text, judge_score, strong_text, verdict_text

_NAMES: Final = {
    "recall_at_1": "Recall@1",
    "recall_at_2": "Recall@2",
    "mean_ap": "mAP",
    "map_at_r": "mAP@R",
    "nmi": "NMI",
    "mean_cosine": "mean cosine of pairs",
}
SMALL_SAMPLE: Final = 100
"""Below this many attacked images, a page calls the sample small."""
_SHORT: Final = ("recall_at_1", "mean_ap")


def score_tiles(models: Sequence[ModelScores]) -> Markup:
    """Show each model's score, its retrieval metrics on benign images, and whether the score can be trusted.

    Upper bounds follow in a row of their own.
    """
    rows = [
        element("div", *(_tile(i, model) for i, model in group), class_="cards") for group in split_by_knowledge(models)
    ]
    note = element(
        "p",
        "Scores from 0 (every attack succeeds) to 100 (no attack changes anything): higher is more robust.",
        class_="note",
    )
    return join(*rows, note)


def _tile(place: int, model: ModelScores) -> Markup:
    word = "ERS" if model.complete else "mean score"
    bound = ", upper bound (no gradients)" if model.upper_bound else ""
    interval = f"95 %: {model.low:.1f} … {model.high:.1f}" if model.high > model.low else "no interval"
    score = format_score(model.score, upper_bound=model.upper_bound)
    return element(
        "article",
        element("h2", series_key(place % SERIES), model.name),
        element("p", model.description, class_="note"),
        element("p", element("b", score), element("small", f" {word} of 100{bound} · {interval}"), class_="score"),
        element(
            "dl",
            *(
                part
                for key in _SHORT
                if key in model.benign
                for part in (element("dt", f"{_NAMES[key]}, benign images"), element("dd", f"{model.benign[key]:.3f}"))
            ),
            element("dt", "attacked"),
            element(
                "dd",
                f"{format_count(model.n)} of {format_plural(model.gallery, 'image', 'images')}, {model.budget}, "
                f"{model.effort}",
            ),
            *_worst_case(model),
            class_="facts",
        ),
        element("p", verdict_text(model), class_=f"trust {judge_score(model)}"),
        class_="card",
    )


def _worst_case(model: ModelScores) -> list[Markup]:
    """Show Recall@1 in the worst case, and the strong ERS with its cost, where they were measured."""
    parts = []
    if model.worst_case_recall is not None:
        value = f"{'≤ ' if model.upper_bound else ''}{model.worst_case_recall:.1f} %"
        parts += [element("dt", "Recall@1, worst case"), element("dd", value)]
    if model.strong is not None and (text := strong_text(model.strong)):
        parts += [element("dt", "stronger attacks"), element("dd", text, title=cost_text(model.strong))]
    return parts


def failed_checks(models: Sequence[ModelScores]) -> Markup:
    """List the sanity checks that failed, those of the same kind together."""
    found = []
    for model in models:
        by_kind: dict[str, list[CheckEntry]] = {}
        for check in model.checks:
            by_kind.setdefault(check.kind, []).append(check)
        for kind, checks in by_kind.items():
            where = ", ".join(check.where for check in checks)
            first = checks[0].message if len(checks) == 1 else f"{checks[0].where}: {checks[0].message}"
            found.append(element("li", element("b", f"{model.name}: {kind}"), f" ({where}). {first}"))
    return element("ul", *found, class_="plain warn") if found else join()


def caution_list(cautions: Sequence[str]) -> Markup:
    """List what to keep in mind when reading the scores."""
    if not cautions:
        return join()
    return element(
        "section",
        element("h2", "Cautions"),
        element("ul", *(element("li", one) for one in cautions), class_="plain"),
        class_="warn",
    )


def sample_cautions(models: Sequence[ModelScores]) -> list[str]:
    """Say which models were measured on few images."""
    return [
        f"{model.name}: {format_count(model.n)} of {format_plural(model.gallery, 'image', 'images')} were attacked, a "
        "small sample; the intervals are wide."
        for model in models
        if model.n < min(SMALL_SAMPLE, model.gallery)
    ]


def score_charts(models: Sequence[ModelScores]) -> Markup:
    """Draw the parts of each model's score, as bars with intervals and as a radar."""
    charts = part_bars(models)
    if (drawn := score_radar(models)) is not None:
        note = element("p", "The larger the area, the more robust the model.", class_="note")
        charts.insert(0, join(drawn, note))
    return element("div", *(element("div", chart, class_="chart") for chart in charts), class_="charts")


def curve_charts(models: Sequence[ModelScores]) -> list[Markup]:
    """Draw the measured budget curves."""
    return [element("div", chart, class_="chart") for chart in score_curves(models)]


def parts_table(models: Sequence[ModelScores]) -> Markup:
    """Tabulate every figure with its interval, its benign value, its value under noise, and its score.

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
            element("th", _NAMES[key], element("small", "benign images"), scope="row"),
            *(element("td", element("b", format_figure(model.benign.get(key, float("nan")), ""))) for model in models),
        )
        for key in _NAMES
        if any(key in model.benign for model in models)
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _cell(figure: FigureEntry | None, *, upper_bound: bool) -> Markup:
    if figure is None:
        return element("td", "–")
    unit = f" {figure.unit}" if figure.unit else ""
    shown = partial(format_figure, unit=figure.unit)
    return element(
        "td",
        element("b", f"{shown(figure.value)}{unit}"),
        " ",
        element("span", f"({shown(figure.low)} … {shown(figure.high)})", class_="interval"),
        element(
            "small",
            f"benign {shown(figure.before)}, noise {shown(figure.noise)}, "
            f"score {format_score(figure.score, upper_bound=upper_bound)}",
        ),
    )
