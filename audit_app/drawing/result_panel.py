"""The result of a live attack as pictures and tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardrank.audit_app.drawing.amplified import amplify
from hardrank.audit_app.drawing.bump import Pictured, bump_chart
from hardrank.audit_app.drawing.markup import Markup, element, png_uri
from hardrank.audit_app.drawing.words import number, percent, rank, whole
from hardrank.audit_app.images.exact_png import Pixels, encode_png
from hardrank.audit_app.live.outcome import RankingOutcome
from hardrank.audit_app.live.result import LiveResult, SubjectResult
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.pgd import PGDOptions


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the pictures need to know of the gallery and the attack."""

    picture: Callable[[str, int], Pixels]
    """Model, row → the image as that model sees it (3,S,S)."""
    name: Callable[[int], str]
    """What a row is called."""
    attack: Attack
    budget: PGDOptions
    watched: str
    """What the ranks are of."""


def verdicts(result: LiveResult, shown: Shown) -> Markup:
    """Say in a sentence for each model what happened."""
    return element(
        "div", *(_verdict(i, found, shown) for i, found in enumerate(result.subjects.values())), class_="verdicts"
    )


def _verdict(place: int, found: SubjectResult, shown: Shown) -> Markup:
    outcome = found.outcome
    changed, of = (sum(values) for values in zip(*((len(m.entered), m.k) for m in outcome.movements), strict=True))
    return element(
        "div",
        element("h3", element("span", class_=f"key series-{place}"), found.name),
        element(
            "dl",
            *_number("first answers changed", whole(changed), f"of {of}"),
            *_number(
                f"{shown.watched}, of {whole(outcome.movements[0].ranked)}",
                f"{rank(outcome.mean_rank_before)} → {rank(outcome.mean_rank_after)}",
            ),
            *_number("distance moved, of 2 at most", number(outcome.shift.distance)),
            class_="numbers",
        ),
        class_="verdict",
    )


def _number(what: str, value: str, of: str = "") -> tuple[Markup]:
    return (element("div", element("dd", value, " ", element("small", of)), element("dt", what)),)


def rankings(result: LiveResult, shown: Shown, *, view: int = 0) -> Markup:
    """Draw each model's ranking before and after, side by side."""
    return element(
        "div", *(_ranking(i, found, shown, view) for i, found in enumerate(result.subjects.values())), class_="cards"
    )


def _ranking(place: int, found: SubjectResult, shown: Shown, view: int) -> Markup:
    place_in_views = min(view, len(found.outcome.movements) - 1)
    movement = found.outcome.movements[place_in_views]
    queries = list(dict.fromkeys(query for query, _ in found.tracked))
    query = queries[min(view, len(queries) - 1)]
    marked = [item for asked, item in found.tracked if asked == query]
    size = len(movement.before)

    def image(row: int) -> str:
        if query is not None and row in marked:  # the attacked candidate, as it is now
            return png_uri(encode_png(found.pixels))
        return png_uri(encode_png(shown.picture(found.name, row)))

    told = f"{found.name}: ranking before and after the attack; {len(movement.entered)} of {movement.k} answers are new"
    chart = bump_chart(movement, Pictured(image=image, name=shown.name, marked=marked), label=told)
    return element(
        "article",
        element("h3", element("span", class_=f"key series-{place}"), found.name),
        _heads(found, shown, query),
        chart,
        element("p", f"{size} items; lines join an item's two ranks, ▲▼ tell by how many it moved.", class_="note"),
        class_="card",
    )


def _heads(found: SubjectResult, shown: Shown, query: int | None) -> Markup:
    """The query's picture before and after; of a candidate attack, the query that ranks and the candidate."""
    change = amplify(to_unit(found.pixels) - to_unit(found.benign), shown.budget)
    pictures = [
        (found.benign, "before", "the benign image"),
        (
            found.pixels,
            "after",
            f"every pixel within {found.change:.3g}/255"
            if shown.budget.norm == "linf"
            else f"L2 {found.change:.3g}/255",
        ),
        (change.pixels, "change", change.scale),
    ]
    if query is not None:
        pictures.insert(0, (shown.picture(found.name, query), "query", shown.name(query)))
    return element("div", *(_figure(*one) for one in pictures), class_="pictures small")


def _figure(pixels: Pixels, title: str, told: str) -> Markup:
    return element(
        "figure",
        element("img", src=png_uri(encode_png(pixels)), alt=f"{title}: {told}", class_="pixels"),
        element("figcaption", element("b", title), " ", told),
    )


def figures_table(result: LiveResult, shown: Shown) -> Markup:
    """Numbers of each model: before, after, and under random noise of the same size."""
    rows = []
    for i, found in enumerate(result.subjects.values()):
        out, noise = found.outcome, found.noise
        rows.append(
            element(
                "tbody",
                _heading(i, found.name, 4),
                _row(
                    shown.watched,
                    rank(out.mean_rank_before),
                    rank(out.mean_rank_after),
                    rank(noise.mean_rank_after),
                ),
                _row("first answers kept", percent(1), percent(out.overlap), percent(noise.overlap)),
                _row(
                    "distance of the embedding (0 … 2)", "0", number(out.shift.distance), number(noise.shift.distance)
                ),
                *(
                    _row(
                        f"{f.key}: {f.help}{_in(f.unit)}",
                        number(found.before[f.key]),
                        number(out.figures[f.key]),
                        number(noise.figures[f.key]),
                    )
                    for f in shown.attack.figures
                ),
            )
        )
    return _table(["", "before", "after", "noise"], rows)


def transfer_table(result: LiveResult) -> Markup:
    """Whose adversarial image does what to whom."""
    names = list(result.subjects)
    rows = [
        element(
            "tr",
            element("th", "image made against ", element("b", source), scope="row"),
            *(_cell(result.transfer[source, target], own=source == target) for target in names),
        )
        for source in names
    ]
    return _table(["", *(f"shown to {name}" for name in names)], [element("tbody", *rows)])


def _cell(outcome: RankingOutcome, *, own: bool) -> Markup:
    return element(
        "td",
        element("b", f"{rank(outcome.mean_rank_before)} → {rank(outcome.mean_rank_after)}"),
        element("small", f"kept {percent(outcome.overlap)}, moved {number(outcome.shift.distance)}"),
        class_="white-box" if own else None,
    )


def survival_table(result: LiveResult, shown: Shown) -> Markup:
    """What is left of each model's attack after its file was treated."""
    rows = []
    for i, found in enumerate(result.subjects.values()):
        out = found.unquantized
        rows.append(
            element(
                "tbody",
                _heading(i, found.name, 4),
                _row(
                    "as the attack left it (floats)",
                    rank(out.mean_rank_after),
                    percent(out.overlap),
                    f"{number(out.shift.distance)} (0)",
                ),
                *(
                    _row(
                        one.title,
                        rank(one.outcome.mean_rank_after),
                        percent(one.outcome.overlap),
                        f"{number(one.outcome.shift.distance)} ({number(one.benign.shift.distance)})",
                    )
                    for one in found.survival.values()
                ),
            )
        )
    return _table(["", shown.watched, "first answers kept", "distance (benign image alike)"], rows)


def _in(unit: str) -> str:
    return f", {unit}" if unit else ""


def _heading(place: int, name: str, columns: int) -> Markup:
    return element(
        "tr", element("th", element("span", class_=f"key series-{place}"), name, colspan=columns, class_="group")
    )


def _row(title: str, *values: str) -> Markup:
    return element("tr", element("th", title, scope="row"), *(element("td", value) for value in values))


def _table(titles: Sequence[str], bodies: Sequence[Markup]) -> Markup:
    head = element("thead", element("tr", *(element("th", title, scope="col") for title in titles)))
    return element("div", element("table", head, *bodies), class_="scroll")
