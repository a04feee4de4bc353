"""Collapse: all embeddings alike, the way in which adversarial metric learning fails. How it is seen while it happens.

A collapsed model resists attacks, for all its embeddings are alike, and the loss of triplets falls to γ all the same.
Two symptoms do tell: images of different classes lie in the same place, or the nearest other image of a batch is of the
right class no more often than by chance. Both are read off the benign batch that a defense embeds anyway.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from hardrank.models.errors import HardrankError


class CollapseError(HardrankError):
    """A training that was stopped because its embeddings have collapsed."""


@dataclass(frozen=True, kw_only=True)
class CollapseReading:
    """The state of the embeddings, of one batch or as the mean over several."""

    cosine: float
    """Mean cosine of pairs of different classes, in [−1,1]; NaN where there are none."""
    recall: float
    """Share of rows whose nearest other row is of their class, in [0,1]; NaN below two rows."""
    chance: float
    """The recall of embeddings that know nothing of the classes; NaN below two rows."""

    def as_measures(self) -> dict[str, float]:
        """Give `cosine`, `recall` and `chance`, as the log names them."""
        return vars(self).copy()


@torch.no_grad()
def read_collapse(embeddings: Tensor, labels: Tensor) -> CollapseReading:
    """Measure a batch: `embeddings` (N,D) on the unit sphere, `labels` (N,)."""
    cosines = embeddings @ embeddings.T
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    matches = same & ~itself
    nearest = cosines.masked_fill(itself, -math.inf).amax(dim=1, keepdim=True) if len(labels) else cosines
    tied = (cosines == nearest) & ~itself
    # A row whose nearest neighbours are tied scores the share of them that match: embeddings that are all equal
    # then score what chance does, and not what the order of the rows happens to give.
    hits = (tied & matches).sum(1) / tied.sum(1)
    chance = matches.sum(1) / (len(labels) - 1) if len(labels) > 1 else hits
    values = torch.stack([cosines[~same].mean(), hits.to(cosines).mean(), chance.to(cosines).mean()]).tolist()
    return CollapseReading(cosine=values[0], recall=values[1], chance=values[2])


class Symptom(StrEnum):
    """What speaks for a collapse."""

    ALIKE = "images of different classes have nearly the same embedding"
    BLIND = "the nearest image of a batch is of the right class no more often than by chance"


@dataclass(frozen=True, kw_only=True)
class CollapseOptions:
    """When readings become a verdict."""

    alike: float = 0.95
    """Mean cosine of different classes above which a reading is suspicious."""
    recovered: float = 0.9
    """Mean cosine below which a collapsed model counts as recovering; the gap keeps the verdict from flickering."""
    noise: float = 2.0
    """Standard errors by which recall must exceed chance, or it is suspicious."""
    patience: int = 3
    """Consecutive readings that turn the verdict over."""


DEFAULTS = CollapseOptions()


@dataclass(frozen=True)
class CollapseState:
    """The verdict, and what contradicts it: all that must be kept from one reading to the next."""

    collapsed: bool = False
    streak: int = 0
    """Consecutive readings until now that contradict `collapsed`."""


def symptoms(reading: CollapseReading, *, queries: int, options: CollapseOptions = DEFAULTS) -> frozenset[Symptom]:
    """Say what of a reading is suspicious. `queries` rows went into it: more of them, less noise.

    A recall is a share of `queries` draws, so that of chance c has the standard error √(c(1 − c)/queries). What is
    NaN (a batch of one class) is not suspicious.
    """
    error = math.sqrt(max(0.0, reading.chance * (1 - reading.chance)) / max(1, queries))
    found = {
        Symptom.ALIKE: reading.cosine > options.alike,
        # A batch of one class, where chance is 1, can tell nothing.
        Symptom.BLIND: reading.chance < 1 and reading.recall <= reading.chance + options.noise * error,
    }
    return frozenset(symptom for symptom, there in found.items() if there)


def observe(
    watch: CollapseState, reading: CollapseReading, *, queries: int, options: CollapseOptions = DEFAULTS
) -> CollapseState:
    """Take a reading into account: the verdict turns when `patience` readings on end contradict it."""
    suspicious = symptoms(reading, queries=queries, options=options)
    healthy = not suspicious and not reading.cosine >= options.recovered
    contradicted = healthy if watch.collapsed else bool(suspicious)
    streak = watch.streak + 1 if contradicted else 0
    return CollapseState(not watch.collapsed) if streak >= options.patience else CollapseState(watch.collapsed, streak)
