"""How each attacked image fared in an audit, from the table beside its report: the weak spots of a model."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.results.schema import ModelEntry
from hardrank.audit_app.results.weakest import number_names, weakest_groups


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageScores:
    """The attacked images of a model; read with `read_scores`."""

    keys: tuple[str, ...]
    """The figures."""
    ids: tuple[str, ...]
    """Of the images (n), in the gallery."""
    classes: tuple[str, ...]
    """Of the images (n); empty where unknown."""
    scores: npt.NDArray[np.float64]
    """(n,F): what each figure scores, cut to 0 (the attack succeeded) … 100."""
    found_before: npt.NDArray[np.bool_]
    """(n,): whether the nearest other item was of the image's class, untouched."""

    def by(self, key: str | None) -> npt.NDArray[np.float64]:
        """Score the images (n,) by a figure; None: by the mean of all."""
        found: npt.NDArray[np.float64] = self.scores.mean(1) if key is None else self.scores[:, self.keys.index(key)]
        return found

    def worst(self, key: str | None, count: int) -> list[int]:
        """Give the places of the `count` images with the least score; of equals the one with the least mean."""
        order = np.lexsort((np.arange(len(self.ids)), self.scores.mean(1), self.by(key)))
        return [int(place) for place in order[:count]]

    def weakest(self, place: int) -> str:
        """Name the figure with the least score of an image."""
        return self.keys[int(self.scores[place].argmin())]


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """The attacked images of a class."""

    name: str
    score: float
    """Mean of their scores."""
    places: tuple[int, ...]
    """The images, the weakest first."""


def worst_classes(found: ImageScores, key: str | None, count: int) -> list[ClassScore]:
    """Return the `count` classes with the lowest mean score, the worst first."""
    names, labels = number_names(found.classes)
    return [
        ClassScore(name=names[group.label], score=group.score, places=group.positions)
        for group in weakest_groups(labels, found.by(key), count)
    ]


def read_scores(folder: Path, model: ModelEntry) -> ImageScores:
    """Read the table of a model beside its report; raises `AuditError` where it is missing or damaged."""
    path = folder / model.per_image
    if Path(model.per_image).name != model.per_image:
        raise AuditError(f"the report in {folder} names a table in another folder, which is not read")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        values = np.array([[float(row[key]) for key in model.figures] for row in rows])
        before = np.array([float(row["R@1"]) > 0 for row in rows])
        ids, classes = tuple(row["id"] for row in rows), tuple(row["class"] for row in rows)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise AuditError(f"{path} cannot be read ({error}); run the audit again, it goes on where it was") from error
    if not rows:
        raise AuditError(f"{path} holds no image")
    return ImageScores(
        keys=tuple(model.figures), ids=ids, classes=classes, scores=_scored(values, model), found_before=before
    )


def _scored(values: npt.NDArray[np.float64], model: ModelEntry) -> npt.NDArray[np.float64]:
    scales: Sequence[tuple[float, float]] = [(one.attacked, one.resisted) for one in model.figures.values()]
    attacked, resisted = (np.array(ends) for ends in zip(*scales, strict=True))
    found: npt.NDArray[np.float64] = (100 * (values - attacked) / (resisted - attacked)).clip(0, 100)
    return found
