"""Where a model held least: the worst queries and classes of a scorecard; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hardrank.trainer.attacks.attack import Figure
from hardrank.trainer.evaluation.scorecard import PerImage, Scorecard, scores_of

_FEW: Final = 2
"""Classes with fewer attacked images are named only where there are no others: one image says little."""


@dataclass(frozen=True, kw_only=True)
class WeakQuery:
    """An attacked image."""

    row: int
    """In the gallery."""
    score: float
    """Mean of its scores, each cut to 0 … 100."""
    weakest: str
    """Key of the figure with the least score; where several have it, images take them in turn."""
    recall_before: bool
    """Whether the nearest other item was of its class, untouched."""


@dataclass(frozen=True, kw_only=True)
class WeakClass:
    """The attacked images of a class."""

    label: int
    rows: tuple[int, ...]
    """In the gallery, the weakest first."""
    score: float
    """Mean of their scores."""
    recall_at_1: float
    """Of them, untouched, in %."""


def clipped_scores(table: PerImage, figures: Mapping[str, Figure]) -> npt.NDArray[np.float64]:
    """Score each image's figures (n,F), each cut to 0 … 100."""
    scores: npt.NDArray[np.float64] = scores_of(table, figures).clip(0, 100)
    return scores


def worst_queries(card: Scorecard, count: int) -> list[WeakQuery]:
    """Give the `count` images with the least mean score, the worst first; the lower row of equals."""
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
    """Choose among the least scores of an image by its place: else the first attack alone would be seen."""
    least = np.flatnonzero(scores == scores.min())
    return int(least[place % len(least)])


def worst_classes(card: Scorecard, count: int) -> list[WeakClass]:
    """Give the `count` classes with the least mean score, the worst first."""
    table = card.per_image
    mean = clipped_scores(table, card.scales).mean(axis=1)
    found = []
    for label in np.unique(table.labels):
        places = np.flatnonzero(table.labels == label)
        places = places[np.argsort(mean[places], kind="stable")]
        found.append(
            WeakClass(
                label=int(label),
                rows=tuple(table.rows[places].tolist()),
                score=float(mean[places].mean()),
                recall_at_1=float(table.columns["R@1"][places].mean()),
            )
        )
    several = [one for one in found if len(one.rows) >= _FEW]
    return sorted(several or found, key=lambda one: (one.score, one.label))[:count]
