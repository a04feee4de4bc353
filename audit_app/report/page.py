"""report.html: the whole audit on one self-contained page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from hardrank.audit_app.audit.result import AuditResult, ModelResult
from hardrank.audit_app.audit.worst_cases import WorstCase
from hardrank.audit_app.drawing.edit_curves import edit_curves
from hardrank.audit_app.drawing.formatting import format_plural, format_score
from hardrank.audit_app.drawing.markup import page_templates
from hardrank.audit_app.drawing.perturbation import amplify
from hardrank.audit_app.drawing.score_figures import SERIES, goal_of, overall_bars, part_bars, score_curves, score_radar
from hardrank.audit_app.drawing.thumbnail import thumbnail_uri
from hardrank.audit_app.gallery.embedded import EmbeddedGallery
from hardrank.audit_app.report.wording import NOT_SAID, in_255
from hardrank.audit_app.results.schema import AuditReport, ModelEntry
from hardrank.audit_app.results.scores import budget_text, effort_text, scores_of_report, split_by_knowledge
from hardrank.audit_app.results.verdict import cost_text, judge_score, verdict_text
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.attacks.registry import ATTACKS

SIDE: Final = 72
"""Side of a thumbnail in pixels, at most."""
_TEMPLATES: Final = Path(__file__).parent / "templates"
_CLASS_IMAGES: Final = 6


@dataclass(frozen=True)
class Picture:
    """An image on the page."""

    uri: str
    """`data:` URI."""
    alt: str
    caption: str = ""
    style: str = ""
    """CSS class of its frame: `same`, `aim` or none."""


@dataclass(frozen=True)
class Strip:
    """The first items of a ranking."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Case:
    """One of the weakest images."""

    title: str
    detail: str
    story: str
    trio: Sequence[Picture]
    strips: Sequence[Strip]


@dataclass(frozen=True)
class ClassCase:
    """One of the weakest classes."""

    name: str
    detail: str
    pictures: Sequence[Picture]


def render_page(report: AuditReport, result: AuditResult) -> str:
    """Render a page without scripts or external links; all text is escaped."""
    environment = page_templates(_TEMPLATES)
    environment.filters["in_255"] = in_255
    environment.filters["verdict"] = judge_score
    environment.filters["verdict_text"] = verdict_text
    environment.filters["cost"] = cost_text
    environment.filters["number"] = _number
    environment.filters["score"] = _score
    environment.filters["effort"] = lambda model: effort_text(model.method, report.settings.steps)
    environment.filters["budget"] = lambda settings: budget_text(settings.norm, settings.epsilon)
    environment.filters["strength"] = lambda value: f"{value:g}".replace("-", "−")
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pictures = [_Pictures(one.embedded) for one in result.models]
    scores = scores_of_report(report)
    return environment.get_template("report.html").render(
        report=report,
        series=[i % SERIES for i in range(len(report.models))],
        keys=list(report.models[0].figures),
        goal_of=goal_of,
        not_said=NOT_SAID,
        groups=_groups(report),
        ers_bars=overall_bars(scores),
        part_bars=part_bars(scores),
        radar=score_radar(scores) or "",
        edit_charts=edit_curves(report.models),
        curves=score_curves(scores),
        cases=[
            [_case(case, drawn, one, result.options.robustness) for case in one.cases]
            for one, drawn in zip(result.models, pictures, strict=True)
        ],
        classes=[_classes(one, drawn) for one, drawn in zip(result.models, pictures, strict=True)],
        complete=all(model.ers is not None for model in report.models),
    )


def _groups(report: AuditReport) -> list[list[tuple[ModelEntry, int]]]:
    """Split the models by what the attacker knew, each with the number of its color; upper bounds come last."""
    groups = split_by_knowledge(scores_of_report(report))
    return [[(report.models[i], i % SERIES) for i, _ in group] for group in groups]


def _score(value: float, model: ModelEntry, digits: int = 1) -> str:
    return format_score(value, upper_bound=model.upper_bound, digits=digits)


class _Pictures:
    """Thumbnails of a gallery, each encoded once."""

    def __init__(self, embedded: EmbeddedGallery) -> None:
        self._embedded = embedded
        self._made: dict[int, str] = {}

    def of(self, row: int, *, caption: str = "", style: str = "") -> Picture:
        if row not in self._made:
            self._made[row] = thumbnail_uri(self._embedded.pixels(np.array([row]))[0], SIDE)
        return Picture(self._made[row], self.name(row), caption, style)

    def name(self, row: int) -> str:
        """Return an image's id and class."""
        label = self._embedded.gallery.label(row)
        return self._embedded.gallery.ids[row] + (f" ({label})" if label else "")


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _case(case: WorstCase, pictures: _Pictures, model: ModelResult, budget: PGDOptions) -> Case:
    gallery, row = model.embedded.gallery, case.query.row
    change = amplify(to_unit(case.adversarial) - to_unit(case.benign), budget)
    label = gallery.labels[case.ranked_by]
    trio = [
        Picture(thumbnail_uri(case.benign, SIDE), pictures.name(row), "original"),
        Picture(thumbnail_uri(case.adversarial, SIDE), f"{pictures.name(row)}, attacked", "attacked"),
        Picture(thumbnail_uri(change.pixels, SIDE), "perturbation", f"perturbation × {change.factor:.3g}"),
    ]

    def strip(title: str, rows: Sequence[int]) -> Strip:
        found = []
        for rank, one in enumerate(rows, start=1):
            style = "aim" if case.aimed and one in case.tracked else ("same" if gallery.labels[one] == label else "")
            found.append(pictures.of(one, caption=str(rank), style=style))
        return Strip(title, found)

    whose = "" if case.ranked_by == row else f" of the query {pictures.name(case.ranked_by)}"
    moves = [
        f"from rank {before} to {after}" for before, after in zip(case.tracked_before, case.tracked_after, strict=True)
    ]
    what = "The target" if case.aimed else "The original top result"
    moved = f"{what} moves {', '.join(moves)} of {case.ranked}."
    goal = f"{case.attack}: {ATTACKS[case.attack].title}."
    score = format_score(case.query.score, upper_bound=model.upper_bound)
    return Case(
        title=pictures.name(row),
        detail=f"mean score {score}; weakest against {case.query.weakest}",
        story=f"{goal} {moved} The embedding moves by {case.moved:.2f} (of at most 2).",
        trio=trio,
        strips=[strip(f"ranking{whose} before", case.before), strip("after", case.after)],
    )


def _classes(model: ModelResult, pictures: _Pictures) -> list[ClassCase]:
    found = []
    for one in model.worst_classes:
        name = model.embedded.gallery.classes[one.label] or "no class"
        images = format_plural(len(one.rows), "image", "images")
        score = format_score(one.score, upper_bound=model.upper_bound)
        detail = f"score {score} over {images}, benign Recall@1 {one.recall_at_1:.0f} %"
        found.append(ClassCase(name, detail, [pictures.of(row) for row in one.rows[:_CLASS_IMAGES]]))
    return found
