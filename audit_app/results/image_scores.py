"""Scores of single images in an audit, from the CSV beside its report, and the weakest images."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.schema import ModelEntry


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageScores:
    """The attacked images of a model; read with `read_scores`."""

    keys: tuple[str, ...]
    """The figures."""
    ids: tuple[str, ...]
    """(n): ids in the gallery."""
    classes: tuple[str, ...]
    """(n): class names; empty if unknown."""
    scores: npt.NDArray[np.float64]
    """(n,F): score of each image and figure, clipped to 0 (the attack succeeded) … 100."""

    def by(self, key: str | None) -> npt.NDArray[np.float64]:
        """Return the scores (n,) of a figure; None: the mean over all figures."""
        found: npt.NDArray[np.float64] = self.scores.mean(1) if key is None else self.scores[:, self.keys.index(key)]
        return found

    def worst(self, key: str | None, count: int) -> list[int]:
        """Return the places of the `count` images with the lowest score; ties are ordered by the mean score."""
        order = np.lexsort((np.arange(len(self.ids)), self.scores.mean(1), self.by(key)))
        return [int(place) for place in order[:count]]

    def weakest(self, place: int) -> str:
        """Return the figure with the lowest score of an image."""
        return self.keys[int(self.scores[place].argmin())]


def read_scores(folder: Path, model: ModelEntry) -> ImageScores:
    """Read the CSV of a model in the folder of its report; raises `AuditError` if it is missing or damaged."""
    path = folder / model.per_image
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        values = np.array([[float(row[key]) for key in model.figures] for row in rows])
        ids, classes = tuple(row["id"] for row in rows), tuple(row["class"] for row in rows)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise AuditError(f"{path} cannot be read ({error}); run the audit again, it resumes where it ended") from error
    if not rows:
        raise AuditError(f"{path} has no images; run the audit again")
    return ImageScores(keys=tuple(model.figures), ids=ids, classes=classes, scores=_scores(values, model))


def _scores(values: npt.NDArray[np.float64], model: ModelEntry) -> npt.NDArray[np.float64]:
    """Convert figures (n,F) to scores from 0 to 100."""
    attacked = np.array([one.attacked for one in model.figures.values()])
    resisted = np.array([one.resisted for one in model.figures.values()])
    found: npt.NDArray[np.float64] = (100 * (values - attacked) / (resisted - attacked)).clip(0, 100)
    return found
