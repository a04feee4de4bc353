"""Draw the result of a live attack as rankings and tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardrank.audit_app.drawing.bump_chart import ChartItems, bump_chart
from hardrank.audit_app.drawing.formatting import format_count, format_number, format_percent, format_rank
from hardrank.audit_app.drawing.markup import Markup, captioned, element, png_uri, series_key
from hardrank.audit_app.drawing.perturbation import amplify
from hardrank.audit_app.images.exact_png import Uint8Image, encode_png
from hardrank.audit_app.live.outcome import RankingOutcome
from hardrank.audit_app.live.result import LiveResult, SubjectResult
from hardrank.audit_app.live.verdict import Verdict, verdict_of
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.pgd import Norm, PGDOptions


@dataclass(frozen=True, kw_only=True)
class ResultContext:
    """What the drawings need to know about the gallery and the attack."""

    picture: Callable[[str, int], Uint8Image]
    """Model name, row → the image as that model sees it (3,S,S)."""
    name: Callable[[int], str]
    """Row → its name."""
    attack: Attack
    budget: PGDOptions
    watched: str
    """Names the item whose rank is context."""


def verdict_line(result: LiveResult, context: ResultContext) -> Markup:
    """Say in one line which models were fooled."""
    words = []
    for i, (name, found) in enumerate(result.subjects.items()):
        verdict = _verdict(found, context)
        share = "" if verdict.success is None else f" ({format_percent(verdict.success / 100)})"
        mood = "bad" if verdict.fooled else "good"
        words.append(
            element(
                "span",
                series_key(i),
                f"{name}: ",
                element("b", verdict.word, class_=mood),
                share,
                class_="model",
            )
        )
    note = "Fooled: the attack got at least half of the way from the original ranking to its goal."
    early = [element("span", "stopped early", class_="note")] if result.stopped else []
    return element(
        "div", element("p", *words, *early, class_="verdict-line"), element("p", note, class_="note"), role="status"
    )


def _verdict(found: SubjectResult, context: ResultContext) -> Verdict:
    return verdict_of(context.attack.figures, found.before, found.outcome.figures)


def stronger_table(standard: LiveResult, strong: LiveResult, context: ResultContext) -> Markup:
    """Compare the results of a standard and of a stronger attack."""
    rows = []
    for i, (name, after) in enumerate(strong.subjects.items()):
        before = standard.subjects[name]
        standard_cells, strong_cells = (
            (_verdict(one, context).word, format_rank(one.outcome.mean_rank_after), _kept(one))
            for one in (before, after)
        )
        rows.append(
            element(
                "tr",
                element("th", series_key(i), f" {name}", scope="row"),
                *(
                    element("td", one, " → ", element("b", other))
                    for one, other in zip(standard_cells, strong_cells, strict=True)
                ),
            )
        )
    titles = ["standard → strong", "verdict", context.watched, "first answers kept"]
    return element("div", _table(titles, [element("tbody", *rows)]), class_="stronger")


def _kept(found: SubjectResult) -> str:
    kept, of = found.outcome.kept
    return f"{format_count(kept)} of {format_count(of)}"


def _numbers(found: SubjectResult, context: ResultContext) -> Markup:
    """Draw the numbers of a model that matter most."""
    outcome = found.outcome
    kept, of = outcome.kept
    return element(
        "dl",
        _number(
            f"{context.watched}, of {format_count(outcome.movements[0].ranked)}",
            f"{format_rank(outcome.mean_rank_before)} → {format_rank(outcome.mean_rank_after)}",
        ),
        _number("first answers kept", format_count(kept), f"of {format_count(of)}"),
        _number("distance moved, of 2", f"{outcome.shift:.2f}"),
        class_="numbers",
    )


def _number(what: str, value: str, of: str = "") -> Markup:
    return element("div", element("dd", value, " ", element("small", of)), element("dt", what))


def rankings(result: LiveResult, context: ResultContext, *, view: int = 0) -> Markup:
    """Draw each model's ranking before and after, side by side."""
    return element(
        "div", *(_ranking(i, found, context, view) for i, found in enumerate(result.subjects.values())), class_="cards"
    )


def _ranking(place: int, found: SubjectResult, context: ResultContext, view: int) -> Markup:
    movement = found.outcome.movements[min(view, len(found.outcome.movements) - 1)]
    queries = list(dict.fromkeys(query for query, _ in found.tracked))
    query = queries[min(view, len(queries) - 1)]
    marked = [item for asked, item in found.tracked if asked == query]
    size = len(movement.before)

    def image(row: int) -> str:
        if query is not None and row in marked:  # the attacked candidate, as it is now
            return png_uri(encode_png(found.pixels))
        return png_uri(encode_png(context.picture(found.name, row)))

    label = (
        f"{found.name}: ranking before and after the attack; {len(movement.entered)} of {movement.k} answers are new"
    )
    chart = bump_chart(movement, ChartItems(image=image, name=context.name, marked=marked), label=label)
    return element(
        "article",
        element("h3", series_key(place), found.name),
        _numbers(found, context),
        chart,
        element(
            "p",
            f"{format_count(size)} items. Lines join the two ranks of an item; ▲▼ show how far it moved.",
            class_="note",
        ),
        _heads(found, context, query),
        class_="card",
    )


def _heads(found: SubjectResult, context: ResultContext, query: int | None) -> Markup:
    """Draw the attacked image before and after; for a candidate attack, also the query."""
    change = amplify(to_unit(found.pixels) - to_unit(found.benign), context.budget)
    norm = "every pixel within" if context.budget.norm is Norm.LINF else "L2"
    pictures = [
        (found.benign, "before", "the original image"),
        (found.pixels, "after", f"{norm} {found.change:.3g}/255"),
        (change.pixels, "perturbation", change.scale),
    ]
    if query is not None:
        pictures.insert(0, (context.picture(found.name, query), "query", context.name(query)))
    drawn = (captioned(png_uri(encode_png(pixels)), title, caption) for pixels, title, caption in pictures)
    return element("div", *drawn, class_="pictures small")


def figures_table(result: LiveResult, context: ResultContext) -> Markup:
    """Tabulate each model's numbers before and after the attack, and under random noise of the same size."""
    rows = []
    for i, found in enumerate(result.subjects.values()):
        out, noise = found.outcome, found.noise
        ranks = (out.mean_rank_before, out.mean_rank_after, noise.mean_rank_after)
        lines = [
            _row(context.watched, *map(format_rank, ranks)),
            _row("first answers kept", *map(format_percent, (1, out.overlap, noise.overlap))),
            _row("distance of the embedding (0 … 2)", *map(format_number, (0, out.shift, noise.shift))),
        ]
        for figure in context.attack.figures:
            unit = f", {figure.unit}" if figure.unit else ""
            values = (values[figure.key] for values in (found.before, out.figures, noise.figures))
            lines.append(_row(f"{figure.key}: {figure.help}{unit}", *map(format_number, values)))
        rows.append(element("tbody", _heading(i, found.name, 4), *lines))
    return _table(["", "before", "after", "noise"], rows)


def transfer_table(result: LiveResult) -> Markup:
    """Tabulate what each model's adversarial image does to the other models."""
    names = list(result.subjects)
    rows = [
        element(
            "tr",
            element("th", "made against ", element("b", source), scope="row"),
            *(_cell(result.transfer[source, target], own=source == target) for target in names),
        )
        for source in names
    ]
    return _table(["", *(f"shown to {name}" for name in names)], [element("tbody", *rows)])


def _cell(outcome: RankingOutcome, *, own: bool) -> Markup:
    return element(
        "td",
        element("b", f"{format_rank(outcome.mean_rank_before)} → {format_rank(outcome.mean_rank_after)}"),
        element("small", f"kept {format_percent(outcome.overlap)}, moved {format_number(outcome.shift)}"),
        class_="white-box" if own else None,
    )


def survival_table(result: LiveResult, context: ResultContext) -> Markup:
    """Tabulate what is left of each attack after its file was transformed."""
    rows = []
    for i, found in enumerate(result.subjects.values()):
        outcomes = [("before quantization (float)", found.unquantized, 0.0)]
        outcomes += [(one.title, one.outcome, one.benign.shift) for one in found.survival.values()]
        lines = [
            _row(
                title,
                format_rank(out.mean_rank_after),
                format_percent(out.overlap),
                f"{format_number(out.shift)} ({format_number(benign_shift)})",
            )
            for title, out, benign_shift in outcomes
        ]
        rows.append(element("tbody", _heading(i, found.name, 4), *lines))
    return _table(["", context.watched, "first answers kept", "distance (original image)"], rows)


def _heading(place: int, name: str, columns: int) -> Markup:
    return element("tr", element("th", series_key(place), name, colspan=columns, class_="group"))


def _row(title: str, *values: str) -> Markup:
    return element("tr", element("th", title, scope="row"), *(element("td", value) for value in values))


def _table(titles: Sequence[str], bodies: Sequence[Markup]) -> Markup:
    head = element("thead", element("tr", *(element("th", title, scope="col") for title in titles)))
    return element("div", element("table", head, *bodies), class_="scroll")
