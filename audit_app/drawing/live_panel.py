"""The running attack as a picture: each model's image, its perturbation, where things stand; curves of all models."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hardrank.audit_app.drawing.amplified import amplify
from hardrank.audit_app.drawing.curves import Line, Scale, line_chart
from hardrank.audit_app.drawing.markup import Markup, element, png_uri
from hardrank.audit_app.drawing.words import percent, rank, whole
from hardrank.audit_app.images.exact_png import encode_png
from hardrank.audit_app.live.status import AttackStatus, TraceFrame, TracePoint
from hardrank.trainer.attacks.pgd import PGDOptions


def live_panel(status: AttackStatus, budget: PGDOptions, *, ranked: int, watched: str) -> Markup:
    """Draw where an attack stands; `ranked` is how many items a ranking has, `watched` what the ranks are of."""
    cards = [
        _card(name, i, status.frames[name], status.curves[name], status, budget, ranked)
        if name in status.frames
        else _empty_card(name, i)
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
        _figure(png_uri(encode_png(frame.image)), "the image", "as attacked so far"),
        _figure(png_uri(encode_png(change.pixels)), "the change", change.scale),
        class_="pictures",
    )


def _figure(uri: str, title: str, told: str) -> Markup:
    return element(
        "figure",
        element("img", src=uri, alt=f"{title}, {told}", class_="pixels"),
        element("figcaption", element("b", title), " ", told),
    )


def _card(
    name: str,
    place: int,
    frame: TraceFrame,
    points: Sequence[TracePoint],
    status: AttackStatus,
    budget: PGDOptions,
    ranked: int,
) -> Markup:
    first, last, spending = points[0], points[-1], status.budgets[name]
    spent = spending.spent(last)
    before, now = (rank(float(np.mean(point.ranks))) for point in (first, last))
    fill = element("div", class_=f"fill series-{place}", style=f"width:{_share(spent, spending.most)}%")
    return element(
        "article",
        element("h3", element("span", class_=f"key series-{place}"), name),
        picture(frame, budget),
        element(
            "dl",
            *_fact("questions" if spending.asks else "step", f"{whole(spent)} of {whole(spending.most)}"),
            *_fact("rank", now, f"was {before} of {whole(ranked)}"),
            *_fact("answers kept", percent(last.overlap)),
            class_="facts",
        ),
        element("div", fill, class_="bar"),
        class_="card",
    )


def _empty_card(name: str, place: int) -> Markup:
    """Keep the place of a model that has not begun, so that the others need not move when it does."""
    return element(
        "article",
        element("h3", element("span", class_=f"key series-{place}"), name),
        element("p", "about to begin …", class_="note"),
        class_="card",
    )


def _share(step: int, steps: int) -> int:
    return round(100 * step / steps) if steps else 100


def _fact(name: str, value: str, more: str = "") -> tuple[Markup, Markup]:
    return element("dt", name), element("dd", element("b", value), " ", element("small", more))


def curves(status: AttackStatus, ranked: int, watched: str) -> list[Markup]:
    """Draw rank, loss and overlap over what was spent, a line for each model."""
    points, budgets = status.curves, status.budgets
    losses = [p.loss for path in points.values() for p in path if np.isfinite(p.loss)]
    asks = any(budget.asks for budget in budgets.values())
    end = max(budget.most for budget in budgets.values())

    def lines(value: Callable[[TracePoint], float]) -> list[Line]:
        return [
            Line(name=name, style=f"series-{i}", x=[budgets[name].spent(p) for p in path], y=[value(p) for p in path])
            for i, (name, path) in enumerate(points.items())
        ]

    def chart(title: str, value: Callable[[TracePoint], float], low: float, high: float, **more: Any) -> Markup:
        label = "question" if asks else "step"
        return line_chart(lines(value), title=title, x_end=end, low=low, high=high, x_label=label, **more)

    least, most = (min(losses), max(losses)) if losses else (0.0, 1.0)
    return [
        chart(watched, lambda p: float(np.mean(p.ranks)), 1, max(2, ranked), scale=Scale.RANK),
        chart("loss", lambda p: p.loss, least, most),
        chart("first answers kept", lambda p: p.overlap, 0, 1, percent=True),
    ]
