"""Draw a running attack: each model's image, perturbation and progress, and the curves of all models."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hardrank.audit_app.drawing.formatting import format_count, format_rank
from hardrank.audit_app.drawing.line_chart import Line, Scale, line_chart
from hardrank.audit_app.drawing.markup import Markup, captioned, element, png_uri, series_key
from hardrank.audit_app.drawing.perturbation import amplify
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.live.status import AttackStatus, TraceFrame, TracePoint
from hardrank.trainer.attacks.pgd import PGDOptions


def live_panel(status: AttackStatus, budget: PGDOptions, *, ranked: int, watched: str) -> Markup:
    """Draw the state of an attack; `ranked` is the number of ranked items, `watched` names the item they show."""
    cards = [
        _card(status, name, i, budget, ranked, watched) if name in status.frames else _empty_card(name, i)
        for i, name in enumerate(status.names)
        if status.frames
    ]
    return element(
        "div",
        element("div", *cards, class_="cards"),
        element("div", *curves(status, ranked, watched), class_="curves"),
        class_="live",
    )


def picture(frame: TraceFrame, budget: PGDOptions) -> Markup:
    """Draw an image beside its perturbation."""
    change = amplify(frame.change, budget)
    return element(
        "div",
        captioned(png_uri(encode_png(frame.image)), "image", "at this step"),
        captioned(png_uri(encode_png(change.pixels)), "perturbation", change.scale),
        class_="pictures",
    )


def _card(status: AttackStatus, name: str, place: int, budget: PGDOptions, ranked: int, watched: str) -> Markup:
    points, spending = status.curves[name], status.budgets[name]
    first, last = points[0], points[-1]
    spent = spending.spent(last)
    before, now = (format_rank(float(np.mean(point.ranks))) for point in (first, last))
    fill = element("div", class_=f"fill series-{place}", style=f"width:{_share(spent, spending.most)}%")
    return element(
        "article",
        element("h3", series_key(place), name),
        picture(status.frames[name], budget),
        element(
            "dl",
            *_fact(
                "queries" if spending.counts_queries else "step",
                f"{format_count(spent)} of {format_count(spending.most)}",
            ),
            *_fact(watched, f"{before} → {now}", f"of {format_count(ranked)}"),
            *_fact("first answers kept", format_count(last.kept[0]), f"of {format_count(last.kept[1])}"),
            class_="facts",
        ),
        element("div", fill, class_="bar"),
        class_="card",
    )


def _empty_card(name: str, place: int) -> Markup:
    """Reserve the space of a model that has not started, so that the others do not move when it does."""
    return element(
        "article",
        element("h3", series_key(place), name),
        element("p", "Starting…", class_="note"),
        class_="card",
    )


def _share(step: int, steps: int) -> int:
    return round(100 * step / steps) if steps else 100


def _fact(name: str, value: str, more: str = "") -> tuple[Markup, Markup]:
    return element("dt", name), element("dd", element("b", value), " ", element("small", more))


def curves(status: AttackStatus, ranked: int, watched: str) -> list[Markup]:
    """Draw rank, loss and overlap over steps or queries, a line per model."""
    points, budgets = status.curves, status.budgets
    losses = [p.loss for path in points.values() for p in path if np.isfinite(p.loss)]
    asks = any(budget.counts_queries for budget in budgets.values())
    end = max(budget.most for budget in budgets.values())

    def lines(value: Callable[[TracePoint], float]) -> list[Line]:
        return [
            Line(name=name, style=f"series-{i}", x=[budgets[name].spent(p) for p in path], y=[value(p) for p in path])
            for i, (name, path) in enumerate(points.items())
        ]

    def chart(title: str, value: Callable[[TracePoint], float], low: float, high: float, **more: Any) -> Markup:
        label = "query" if asks else "step"
        return line_chart(lines(value), title=title, x_end=end, low=low, high=high, x_label=label, **more)

    least, most = (min(losses), max(losses)) if losses else (0.0, 1.0)
    return [
        chart(watched, lambda p: float(np.mean(p.ranks)), 1, max(2, ranked), scale=Scale.RANK),
        chart("loss", lambda p: p.loss, least, most),
        chart("first answers kept", lambda p: p.overlap, 0, 1, percent=True),
    ]
