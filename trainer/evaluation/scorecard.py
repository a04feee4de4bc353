"""The scorecard: the results of the attacks and ERS, per image and on average, with intervals and worst cases."""

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from hardrank.trainer.attacks.attack import Attack, Figure
from hardrank.trainer.attacks.registry import known_figures

ERS_KEYS: Final = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")
"""The ten results, in the order of the published tables."""

RECALL_KEYS: Final = ("ES:R", "LTM", "GTM", "MARGIN")
"""The Recall@1 figures that an image must survive in the worst case."""


class CheckKind(StrEnum):
    """Why an evaluation should not be trusted, or its score not taken for robustness."""

    ZERO_GRADIENT = "zero gradient"
    NOISE_BEATS_ATTACK = "noise beats the attack"
    BARELY_BEATS_NOISE = "barely better than noise"
    HARDLY_FALLS = "loss hardly falls"
    STILL_FALLING = "loss still falling"
    SEARCH_BEATS_ATTACK = "search without gradients beats the attack"
    SURVIVES_LARGE_BUDGET = "survives a large budget"
    GRADIENT_MISMATCH = "gradient does not match the loss"
    SEED_VARIANCE = "varies with the seed"
    RANDOM_NETWORK = "random network"
    BATCH_DEPENDENT = "depends on the batch"
    COLLAPSE = "collapse"
    CHANCE = "retrieves at chance"


@dataclass(frozen=True)
class Check:
    """A check that failed."""

    kind: CheckKind
    where: str
    """The attack or figure, or `model`."""
    message: str


@dataclass(frozen=True, kw_only=True)
class FigureResult:
    """One result, a mean over the queries."""

    value: float
    """Under attack, in its unit: %, a cosine, or a distance."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval."""
    before: float
    """The same for the benign queries."""
    noise: float
    """The same under random noise at the edge of the budget."""
    score: float
    """Its score, 0 … 100: what ERS averages."""
    success: float
    """How far the attack got from the benign ranking to its goal, in %; NaN where it began at its goal."""


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """The results of every query, a row each."""

    rows: np.ndarray
    """(n,): gallery rows."""
    labels: np.ndarray
    """(n,)."""
    columns: Mapping[str, np.ndarray]
    """`KEY`, `KEY before`, `KEY noise` of each figure (n,); `ATTACK targets` (n,T), …; `R@1`."""

    def write_csv(self, path: Path) -> None:
        """Write the table, a line for each query."""
        flat = {name: values for name, values in self.columns.items() if values.ndim == 1}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", *flat])
            for i, (row, label) in enumerate(zip(self.rows.tolist(), self.labels.tolist(), strict=True)):
                writer.writerow([row, label, *(values[i].item() for values in flat.values())])


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a table of results."""

    figures: Mapping[str, FigureResult]
    ers: float
    """Empirical Robustness Score, 0 … 100, higher is more robust; NaN unless all ten results were measured."""
    ers_low: float
    ers_high: float
    """Ends of its 95 % bootstrap interval."""
    ars: float
    """100 − the mean success of ERS's attacks (or those that ran, if not all did) relative to the benign ranking."""
    worst_recall: float
    """Recall@1 in % in the worst case: a query counts only if its benign and all its attacked images find its class."""
    worst_case_recall: float
    """`worst_recall` if ES, LTM, GTM and MARGIN were all measured, else NaN: it stands beside every ERS."""
    worst_score: float
    """Mean over queries of the smallest of their scores, 0 … 100."""
    recall_at_1: float
    """Recall@1 of the benign queries, in %."""
    n: int
    """How many queries."""


@dataclass(frozen=True, kw_only=True)
class StrongFigure:
    """One result of the strong search, a mean over its images."""

    value: float
    """In its unit: for each image, the worst value that any attack found."""
    score: float
    """Its score, 0 … 100."""
    protocol: float
    """The value under the scorecard's own attack, for the same images."""


@dataclass(frozen=True, kw_only=True)
class StrongSetting:
    """One setting of the strong search."""

    name: str
    """The attack with what differs from the scorecard; the first two settings are the scorecard's own results."""
    images: int
    """How many images it attacked: those with something left to gain."""
    gradients: int
    """Forward and backward passes that it took."""
    found: Mapping[str, int]
    """By result, for how many images it found the worst value first; results without any are left out."""


@dataclass(frozen=True, kw_only=True)
class StrongScore:
    """ERS with the worst of many attacks for each image and result, on a sample of the attacked images."""

    ers: float
    """0 … 100; NaN unless all ten results were measured."""
    ers_low: float
    ers_high: float
    """Ends of its 95 % bootstrap interval."""
    protocol_ers: float
    """ERS of the same images, as the scorecard measures it."""
    worst_case_recall: float
    """Recall@1 in % that no attack of any setting takes away; NaN unless ES, LTM, GTM and MARGIN were measured."""
    figures: Mapping[str, StrongFigure]
    n: int
    """How many images."""
    gradients_per_image: float
    """Forward and backward passes for each image, beyond those of the scorecard."""
    seconds: float
    """Duration, on the hardware of the measurement."""
    settings: tuple[StrongSetting, ...]
    """How it was found."""
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scorecard(Summary):
    """The outcome of all attacks, with everything that a reviewer needs to check it."""

    mean_cosine: float
    """Of all pairs of the gallery; near 1 the model has collapsed, and ERS says nothing."""
    checks: tuple[Check, ...]
    gallery: int
    """How many items it has."""
    seeds: tuple[int, ...]
    """The seed of the draws, and that of the check with another one."""
    options: Mapping[str, Any]
    attacks: Mapping[str, Mapping[str, Any]]
    """The options of each attack, as it ran."""
    passes: int
    """Forward and backward passes of the whole measurement, the checks included."""
    scales: Mapping[str, Figure]
    """What each figure means, and which values score 0 and 100."""
    per_image: PerImage
    sanity: Mapping[str, float] = field(default_factory=dict)
    """What the sanity runs measured, whether or not a check failed; empty if they did not run."""
    strong: StrongScore | None = None
    """The same under stronger attacks; None if that was not measured."""

    @property
    def trustworthy(self) -> bool:
        """Whether no check failed."""
        return not self.checks

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the table of images as JSON values; NaN becomes None."""
        whole = asdict(replace(self, per_image=PerImage(rows=np.empty(0), labels=np.empty(0), columns={})))
        del whole["per_image"]
        found: dict[str, Any] = _without_nan(whole)
        return found


def ers(values: Mapping[str, float]) -> float:
    """Return the Empirical Robustness Score of ten results by `ERS_KEYS`, in the units of the paper's tables."""
    known = known_figures()
    parts = [float(known[key].score(torch.tensor(values[key], dtype=torch.float64))) for key in ERS_KEYS]
    return sum(parts) / len(parts)


def summarize(table: PerImage, figures: Mapping[str, Figure], *, seed: int, resamples: int) -> Summary:
    """Average a table of results: the figures, ERS, their intervals, and the worst cases per image."""
    scores = scores_of(table, figures)
    complete = set(ERS_KEYS) <= set(figures)
    whole = scores[:, [list(figures).index(key) for key in ERS_KEYS]].mean(axis=1) if complete else None
    nan = float("nan")
    values = np.stack([table.columns[key] for key in figures], axis=1)
    stacked = np.column_stack([values, np.full(len(values), nan) if whole is None else whole])
    low, high = bootstrap_interval(stacked, seed=seed, resamples=resamples)
    results = {
        key: FigureResult(
            value=float(values[:, i].mean()),
            low=float(low[i]),
            high=float(high[i]),
            before=float(table.columns[key + " before"].mean()),
            noise=float(table.columns[key + " noise"].mean()),
            score=float(scores[:, i].mean()),
            success=_success(figure, table),
        )
        for i, (key, figure) in enumerate(figures.items())
    }
    counted = [result.success for key, result in results.items() if not complete or key in ERS_KEYS]
    recalls = [table.columns["R@1"], *(table.columns[key] for key, figure in figures.items() if figure.recall)]
    worst_recall = float(np.min(recalls, axis=0).mean())
    return Summary(
        figures=results,
        ers=nan if whole is None else float(whole.mean()),
        ers_low=float(low[-1]),
        ers_high=float(high[-1]),
        ars=100 - float(np.nanmean(counted)),
        worst_recall=worst_recall,
        worst_case_recall=worst_recall if set(RECALL_KEYS) <= set(figures) else nan,
        worst_score=float(np.clip(scores, 0, 100).min(axis=1).mean()),
        recall_at_1=float(table.columns["R@1"].mean()),
        n=len(table.rows),
    )


def bootstrap_interval(values: np.ndarray, *, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (F,), (F,) of the 95 % bootstrap interval of the mean of each column of `values` (n,F)."""
    rng = np.random.default_rng([seed, 0xB007])
    n = len(values)
    means = np.stack([values[rng.integers(n, size=n)].mean(axis=0) for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def figures_of(attacks: Mapping[str, Attack]) -> dict[str, Figure]:
    """Return the figures of several attacks, by key."""
    return {figure.key: figure for attack in attacks.values() for figure in attack.figures}


def scores_of(table: PerImage, figures: Mapping[str, Figure], suffix: str = "") -> np.ndarray:
    """Return the scores 0 … 100 of each query's figures (n,F); `suffix` chooses ` before` or ` noise`."""
    columns = [figure.score(torch.from_numpy(table.columns[key + suffix])) for key, figure in figures.items()]
    return torch.stack(columns, dim=1).numpy()


def _success(figure: Figure, table: PerImage) -> float:
    before, after = (table.columns[figure.key + suffix].mean() for suffix in (" before", ""))
    room = figure.attacked - before
    return float(100 * (after - before) / room) if abs(room) > 1e-9 else float("nan")


def _without_nan(content: Any) -> Any:
    """Return `content` with NaN and infinities, which JSON lacks, as None."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
