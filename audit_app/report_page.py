"""report.html: the whole audit on one page that needs nothing but itself."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from audit_app.audit import AuditResult, ModelResult
from audit_app.drawing.budget_curve import BudgetLine, BudgetPoint, budget_curve
from audit_app.drawing.markup import Markup, png_uri
from audit_app.drawing.radar import Shape, radar
from audit_app.drawing.score_bars import Group, ScoreBar, score_bars
from audit_app.options import CurveParameter
from audit_app.report import NOT_SAID, in_255
from audit_app.scene import Bytes, Scene
from audit_app.schema import AuditReport, FigureEntry
from audit_app.worst_cases import WorstCase

SIDE: Final = 72
"""Pixels of a thumbnail, at most."""
SERIES: Final = 6
"""Colours; further models begin again with the first."""
_TEMPLATES: Final = Path(__file__).parent / "templates"
_CLASS_IMAGES: Final = 6

WANTED: Final[Mapping[str, str]] = {
    "CA+": "lift a changed candidate to the top for another query",
    "CA-": "sink a changed candidate of the top 1 %",
    "QA+": "lift a candidate to the top by changing the query",
    "QA-": "sink a candidate of the top 1 % by changing the query",
    "TMA": "give the query the embedding of another image",
    "ES:D": "move the query far from its own embedding",
    "ES:R": "the same attack: whether the query still finds its class",
    "LTM": "let items of other classes rank before those of the query's",
    "GTM": "move the query to the nearest item of another class",
    "GTT": "push the top item out of the first four",
}
"""What the attacker wants, by figure."""


@dataclass(frozen=True)
class Picture:
    """An image of the page."""

    uri: str
    """`data:` address."""
    alt: str
    caption: str = ""
    style: str = ""
    """Class of its frame: `same`, `aim` or none."""


@dataclass(frozen=True)
class Strip:
    """A ranking's head."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Case:
    """A worst query."""

    title: str
    detail: str
    story: str
    trio: Sequence[Picture]
    strips: Sequence[Strip]


@dataclass(frozen=True)
class ClassCase:
    """A worst class."""

    name: str
    detail: str
    pictures: Sequence[Picture]


def render_page(report: AuditReport, result: AuditResult) -> str:
    """Render a page without scripts and without addresses; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["in_255"] = in_255
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pictures = [_Pictures(one.scene) for one in result.models]
    return environment.get_template("report.html").render(
        report=report,
        series=[i % SERIES for i in range(len(report.models))],
        keys=list(report.models[0].figures),
        wanted=WANTED,
        not_said=NOT_SAID,
        ers_bars=_safe(_ers_bars(report)),
        part_bars=_safe(_part_bars(report)),
        radar=_safe(_radar(report)) if len(report.models[0].figures) >= 3 else "",
        curves=[_safe(curve) for curve in _curves(report)],
        cases=[
            [_case(case, drawn, one) for case in one.cases] for one, drawn in zip(result.models, pictures, strict=True)
        ],
        classes=[_classes(one, drawn) for one, drawn in zip(result.models, pictures, strict=True)],
        complete=all(model.ers is not None for model in report.models),
    )


class _Pictures:
    """Thumbnails of a gallery, each made once."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._made: dict[int, str] = {}

    def of(self, row: int, *, caption: str = "", style: str = "") -> Picture:
        if row not in self._made:
            self._made[row] = thumbnail(self._scene.pixels(np.array([row]))[0])
        return Picture(self._made[row], self.name(row), caption, style)

    def name(self, row: int) -> str:
        """An image's id and class."""
        label = self._scene.collection.label(row)
        return self._scene.collection.ids[row] + (f" ({label})" if label else "")


def thumbnail(pixels: Bytes) -> str:
    """Give uint8 (3,S,S) as a PNG address, shrunk to `SIDE` pixels where it is larger."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if max(image.size) > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return png_uri(stream.getvalue())


def amplified(benign: Bytes, adversarial: Bytes) -> tuple[Bytes, float]:
    """Give the difference of two images around grey, as strong as it can be shown, and by how much it was amplified."""
    change = adversarial.astype(np.float64) - benign
    largest = float(np.abs(change).max())
    factor = 127 / largest if largest else 1.0
    return np.rint(128 + factor * change).clip(0, 255).astype(np.uint8), factor


def _safe(markup: Markup) -> markupsafe.Markup:
    """Hand markup whose contents are escaped already to the template."""
    return markupsafe.Markup(markup)


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _score_interval(figure: FigureEntry) -> tuple[float, float]:
    """The ends of a figure's interval as scores."""
    span = figure.resisted - figure.attacked
    ends = sorted(100 * (end - figure.attacked) / span for end in (figure.low, figure.high))
    return ends[0], ends[1]


def _ers_bars(report: AuditReport) -> Markup:
    groups = [
        Group(
            name=_short(model.name),
            bars=[
                ScoreBar(
                    series=i % SERIES,
                    value=model.score,
                    low=model.score if model.ers_low is None else model.ers_low,
                    high=model.score if model.ers_high is None else model.ers_high,
                    tip=f"{model.name}: {model.score:.2f}",
                )
            ],
        )
        for i, model in enumerate(report.models)
    ]
    return score_bars(groups, label="The overall score of each model, 0 to 100, with its 95 % interval")


def _part_bars(report: AuditReport) -> Markup:
    keys = list(report.models[0].figures)
    groups = []
    for key in keys:
        bars = []
        for i, model in enumerate(report.models):
            figure = model.figures[key]
            low, high = _score_interval(figure)
            tip = (
                f"{model.name}, {key}: {figure.value:.4g}{figure.unit and ' ' + figure.unit}, score {figure.score:.1f}"
            )
            bars.append(ScoreBar(series=i % SERIES, value=figure.score, low=low, high=high, tip=tip))
        groups.append(Group(name=key, bars=bars))
    return score_bars(groups, label="The score of each part and model, 0 to 100, with 95 % intervals")


def _radar(report: AuditReport) -> Markup:
    keys = list(report.models[0].figures)
    shapes = [
        Shape(series=i % SERIES, name=model.name, values=[model.figures[key].score for key in keys])
        for i, model in enumerate(report.models)
    ]
    return radar(keys, shapes, label="The parts of each model's score: the larger the area, the more it withstands")


def _curves(report: AuditReport) -> list[Markup]:
    drawn = []
    for parameter in CurveParameter:
        lines = [
            BudgetLine(
                series=i % SERIES,
                name=model.name,
                points=[BudgetPoint(at=p.at, value=p.score, low=p.low, high=p.high) for p in curve.points],
            )
            for i, model in enumerate(report.models)
            for curve in model.curves
            if curve.parameter == parameter
        ]
        if lines:
            budgets = sorted({point.at for line in lines for point in line.points})
            names, axis = _budgets(parameter, budgets), _AXIS[parameter]
            drawn.append(budget_curve(lines, names=names, x_label=axis, label=f"The score against {axis}"))
    return drawn


_AXIS: Final[Mapping[CurveParameter, str]] = {
    CurveParameter.EPSILON: "ε, the budget, in 1/255",
    CurveParameter.STEPS: "steps of the attack",
    CurveParameter.QUERIES: "questions to the model, an image and attack",
}


def _budgets(parameter: CurveParameter, values: Sequence[float]) -> list[str]:
    return [f"{255 * value:.3g}" if parameter is CurveParameter.EPSILON else f"{value:g}" for value in values]


def _case(case: WorstCase, pictures: _Pictures, model: ModelResult) -> Case:
    collection, row = model.scene.collection, case.query.row
    change, factor = amplified(case.benign, case.adversarial)
    label = collection.labels[case.ranked_by]
    trio = [
        Picture(thumbnail(case.benign), pictures.name(row), "untouched"),
        Picture(thumbnail(case.adversarial), f"{pictures.name(row)}, attacked", "attacked"),
        Picture(thumbnail(change), "the perturbation", f"change × {factor:.0f}"),
    ]

    def strip(title: str, rows: Sequence[int]) -> Strip:
        found = []
        for rank, one in enumerate(rows, start=1):
            style = "aim" if case.aimed and one in case.tracked else ("same" if collection.labels[one] == label else "")
            found.append(pictures.of(one, caption=str(rank), style=style))
        return Strip(title, found)

    whose = "" if case.ranked_by == row else f" of the query {pictures.name(case.ranked_by)}"
    moves = [
        f"from rank {before} to {after}" for before, after in zip(case.tracked_before, case.tracked_after, strict=True)
    ]
    what = "What it aims at" if case.aimed else "The former first item"
    wanted = WANTED.get(case.attack, WANTED.get(f"{case.attack}:D", ""))
    moved = f"{what} moves {', '.join(moves)} of {case.ranked}."
    return Case(
        title=pictures.name(row),
        detail=f"mean score {case.query.score:.1f}; weakest {case.query.weakest}",
        story=f"{case.attack}: {wanted}. {moved} The embedding moves by {case.moved:.2f} (of 2).",
        trio=trio,
        strips=[strip(f"ranking{whose} before", case.before), strip("after", case.after)],
    )


def _classes(model: ModelResult, pictures: _Pictures) -> list[ClassCase]:
    found = []
    for one in model.worst_classes:
        name = model.scene.collection.classes[one.label] or "no class"
        detail = f"score {one.score:.1f} over {len(one.rows)} images, Recall@1 {one.recall_at_1:.0f} % untouched"
        found.append(ClassCase(name, detail, [pictures.of(row) for row in one.rows[:_CLASS_IMAGES]]))
    return found


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
