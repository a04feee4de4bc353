"""The weakest queries and classes of a scorecard."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.results.weakest import weakest_groups
from hardrank.trainer.attacks.attack import Figure
from hardrank.trainer.evaluation.scorecard import PerImage, Scorecard, scores_of


@dataclass(frozen=True, kw_only=True)
class WeakQuery:
    """An attacked image."""

    row: int
    """In the gallery."""
    score: float
    """Mean of its scores, each clipped to 0 to 100."""
    weakest: str
    """Key of the figure with the lowest score; if several have it, successive images take them in turn."""
    recall_before: bool
    """Whether the nearest other item of the benign image has its class."""


@dataclass(frozen=True, kw_only=True)
class WeakClass:
    """The attacked images of a class."""

    label: int
    rows: tuple[int, ...]
    """In the gallery, the weakest first."""
    score: float
    """Mean of their scores."""
    recall_at_1: float
    """Of these images, benign, in %."""


def clipped_scores(table: PerImage, figures: Mapping[str, Figure]) -> npt.NDArray[np.float64]:
    """Score each image's figures (n,F), clipped to 0 to 100."""
    scores: npt.NDArray[np.float64] = scores_of(table, figures).clip(0, 100)
    return scores


def worst_queries(card: Scorecard, count: int) -> list[WeakQuery]:
    """Return the `count` images with the lowest mean score, the worst first; ties are ordered by row."""
    table, keys = card.per_image, list(card.scales)
    scores = clipped_scores(table, card.scales)
    order = np.lexsort((table.rows, scores.mean(axis=1)))[:count]
    return [
        WeakQuery(
            row=int(table.rows[i]),
            score=float(scores[i].mean()),
            weakest=keys[_weakest(scores[i], place)],
            recall_before=bool(table.columns["R@1"][i] > 0),
        )
        for place, i in enumerate(order)
    ]


def _weakest(scores: npt.NDArray[np.float64], place: int) -> int:
    """Choose among an image's lowest scores by its position, so that not only the first attack is shown."""
    least = np.flatnonzero(scores == scores.min())
    return int(least[place % len(least)])


def worst_classes(card: Scorecard, count: int) -> list[WeakClass]:
    """Return the `count` classes with the lowest mean score, the worst first."""
    table = card.per_image
    mean = clipped_scores(table, card.scales).mean(axis=1)
    return [
        WeakClass(
            label=group.label,
            rows=tuple(table.rows[list(group.positions)].tolist()),
            score=group.score,
            recall_at_1=float(table.columns["R@1"][list(group.positions)].mean()),
        )
        for group in weakest_groups(table.labels.tolist(), mean, count)
    ]
