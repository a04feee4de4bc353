"""Detects a collapse during training: all images get nearly the same embedding.

This is how adversarial metric learning typically fails. Neither robustness nor the loss shows it: no attack can move
embeddings that are all alike, and the triplet loss stays near γ. There are two symptoms: images of different classes
have nearly the same embedding, or the nearest other image of a batch is of the right class no more often than by
chance. Both are measured on the benign batch, which a defense embeds anyway.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from hardrank.models.errors import HardrankError

ALIKE: Final = 0.95
"""Mean cosine of different classes above which a reading is suspicious."""
_RECOVERED: Final = 0.9
"""Mean cosine below which a collapsed model counts as recovering; lower than `ALIKE`, for hysteresis."""
_NOISE: Final = 2.0
"""Standard errors by which recall must exceed chance not to be suspicious."""
_PATIENCE: Final = 3
"""Consecutive readings that change the verdict."""


class CollapseError(HardrankError):
    """Training was stopped because the embeddings have collapsed."""


@dataclass(frozen=True, kw_only=True)
class CollapseReading:
    """Measures of the embeddings, of one batch or as the mean over several."""

    cosine: float
    """Mean cosine of pairs of different classes, in [−1,1]; NaN if there are none."""
    recall: float
    """Share of rows whose nearest other row is of their class, in [0,1]; NaN for fewer than two rows."""
    chance: float
    """The recall by chance; NaN for fewer than two rows."""

    def as_measures(self) -> dict[str, float]:
        """Return `cosine`, `recall` and `chance`, as named in the log."""
        return vars(self).copy()


@torch.no_grad()
def read_collapse(embeddings: Tensor, labels: Tensor) -> CollapseReading:
    """Measure a batch of embeddings (N,D) on the unit sphere with labels (N,)."""
    cosines = embeddings @ embeddings.T
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    matches = same & ~itself
    nearest = cosines.masked_fill(itself, -math.inf).amax(dim=1, keepdim=True) if len(labels) else cosines
    tied = (cosines == nearest) & ~itself
    # A row whose nearest neighbors are tied counts as the share of them that match. Embeddings that are all equal
    # then have the recall of chance, rather than one that depends on the order of the rows.
    hits = (tied & matches).sum(1) / tied.sum(1)
    chance = matches.sum(1) / (len(labels) - 1) if len(labels) > 1 else hits
    values = torch.stack([cosines[~same].mean(), hits.to(cosines).mean(), chance.to(cosines).mean()]).tolist()
    return CollapseReading(cosine=values[0], recall=values[1], chance=values[2])


class Symptom(StrEnum):
    """A symptom of a collapse."""

    ALIKE = "images of different classes have nearly the same embedding"
    BLIND = "the nearest image of a batch is of the right class no more often than by chance"


@dataclass(frozen=True)
class CollapseState:
    """The verdict so far: what must be kept from one reading to the next."""

    collapsed: bool = False
    streak: int = 0
    """Number of the latest consecutive readings that contradict `collapsed`."""


def collapse_signs(reading: CollapseReading, *, queries: int) -> frozenset[Symptom]:
    """Return the symptoms in a reading that was measured on `queries` rows.

    Recall is a share of `queries` draws, so by chance c it has the standard error √(c(1 − c)/queries). NaN (a batch of
    one class) is no symptom.
    """
    error = math.sqrt(max(0.0, reading.chance * (1 - reading.chance)) / max(1, queries))
    found = {
        Symptom.ALIKE: reading.cosine > ALIKE,
        # A batch of one class, where chance is 1, is not informative.
        Symptom.BLIND: reading.chance < 1 and reading.recall <= reading.chance + _NOISE * error,
    }
    return frozenset(symptom for symptom, present in found.items() if present)


def observe(watch: CollapseState, reading: CollapseReading, *, queries: int) -> CollapseState:
    """Return the verdict after a reading: it changes when a few consecutive readings contradict it."""
    suspicious = collapse_signs(reading, queries=queries)
    healthy = not suspicious and not reading.cosine >= _RECOVERED
    contradicted = healthy if watch.collapsed else bool(suspicious)
    streak = watch.streak + 1 if contradicted else 0
    return CollapseState(not watch.collapsed) if streak >= _PATIENCE else CollapseState(watch.collapsed, streak)
