"""The choice of settings for the rows of a study: one small grid for all, measured on validation classes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from hardrank.trainer.config import ConfigError
from hardrank.trainer.evaluation.diagnostics import COLLAPSED_COSINE

Content = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is chosen for a row."""

    learning_rate: float
    averaging: float

    @property
    def title(self) -> str:
        """For titles of trials."""
        return f"rate {self.learning_rate:g}, averaging {self.averaging:g}"

    def as_changes(self) -> dict[str, Any]:
        """Return the fields of the configuration that these settings change."""
        return {"robust": vars(self).copy()}


@dataclass(frozen=True, kw_only=True)
class SettingsGrid:
    """The settings among which each row chooses, and how they are measured."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    learning_rate: tuple[float, ...]
    """Learning rates."""
    averaging: tuple[float, ...]
    """Decays of the moving average of the weights."""
    validation_classes: int
    """Training classes on which settings are measured and which do not train; see `data.validation_classes`."""
    updates: int
    """Updates of each of these trainings."""
    attacked: int = 100
    """Validation images that are attacked."""
    keep_recall: float = 0.9
    """Settings count only with at least this share of the Recall@1 that the initial weights have."""
    most_cosine: float = COLLAPSED_COSINE
    """Settings with a larger mean cosine, whose scorecard says that the model has collapsed, are chosen only if all
    have one."""
    seed: int = 0
    """Seed of these trainings."""

    def __post_init__(self) -> None:
        if not self.learning_rate or not self.averaging:
            raise ConfigError("settings_grid needs at least one learning_rate and one averaging")
        if self.validation_classes < 2 or self.updates < 1 or self.attacked < 1 or not 0 <= self.keep_recall <= 1:
            raise ConfigError(
                "settings_grid needs validation_classes ≥ 2, updates ≥ 1, attacked ≥ 1 and keep_recall from 0 to 1"
            )

    @property
    def settings(self) -> tuple[Settings, ...]:
        """All combinations."""
        pairs = itertools.product(self.learning_rate, self.averaging)
        return tuple(Settings(learning_rate=rate, averaging=averaging) for rate, averaging in pairs)

    def as_changes(self) -> dict[str, Any]:
        """Return the fields of the configuration that a training of the grid changes."""
        return {
            "data": {"validation_classes": self.validation_classes},
            "robust": {"updates": self.updates},
            "evaluation": {"attacked": self.attacked, "strong_images": 0},
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The settings that were chosen for a row, and what they were chosen from."""

    chosen: Settings
    candidates: tuple[dict[str, Any], ...]
    """For each of the grid: its settings, and `recall_at_1`, `ers` and `mean_cosine` on the validation classes."""
    least_recall: float
    """The Recall@1 that settings need to count."""
    most_cosine: float
    """The mean cosine above which settings count only if all have more."""
    reached: bool
    """Whether any of them has it."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **vars(self.chosen),
            "least_recall": self.least_recall,
            "most_cosine": self.most_cosine,
            "reached": self.reached,
            "candidates": list(self.candidates),
        }


def choose(grid: SettingsGrid, results: Mapping[Settings, Content]) -> Choice:
    """Choose the settings of a row: those with the highest ERS among those that keep Recall@1 and do not collapse.

    The rule is the same for all rows. Embeddings that are all alike cannot be moved by an attack, and may still rank
    well: settings with a mean cosine above `grid.most_cosine` are chosen only if there are no others. If no settings
    keep `grid.keep_recall` of the Recall@1 that the initial weights have, those with the highest Recall@1 are chosen.
    Trainings that failed count as a Recall@1 of 0.

    Args:
        grid: The grid.
        results: The result of the trial of each of `grid.settings`.
    """
    starts = [result["start"]["recall_at_1"] for result in results.values()]
    least = grid.keep_recall * sum(starts) / len(starts)
    measured = [(settings, *_measures(results[settings])) for settings in grid.settings]
    keeping = [entry for entry in measured if entry[1] >= least and entry[2] is not None]
    apart = [entry for entry in keeping if entry[3] is not None and entry[3] <= grid.most_cosine]
    best = max(apart or keeping, key=lambda entry: entry[2] or 0.0, default=max(measured, key=lambda entry: entry[1]))
    return Choice(
        chosen=best[0],
        candidates=tuple(
            {**vars(settings), "recall_at_1": recall, "ers": ers, "mean_cosine": cosine}
            for settings, recall, ers, cosine in measured
        ),
        least_recall=least,
        most_cosine=grid.most_cosine,
        reached=bool(keeping),
    )


def _measures(result: Content) -> tuple[float, float | None, float | None]:
    """Return Recall@1, ERS and mean cosine."""
    if result["failure"] is not None:
        return 0.0, None, None
    robustness = result["robustness"]
    return float(result["metrics"]["recall_at_1"]), float(robustness["ers"]), float(robustness["mean_cosine"])


def choices_markdown(choices: Mapping[str, Content], rows: Sequence[Content]) -> list[str]:
    """Return the lines of the page that say what each row chose."""
    shown = [row["title"] for row in rows if row["title"] in choices] or list(choices)
    if not shown:
        return []
    most = choices[shown[0]]["most_cosine"]
    lines = [
        "Learning rate and averaging of each row, chosen on validation classes: the highest ERS among the settings "
        "that keep Recall@1" + (f" and, if any do, a mean cosine of at most {most:g}." if most < 1 else "."),
        "",
        "| row | learning rate | averaging | R@1 % there | mean cosine there | ERS there | needed R@1 % |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for title in shown:
        choice = choices[title]
        (best,) = (
            one
            for one in choice["candidates"]
            if (one["learning_rate"], one["averaging"]) == (choice["learning_rate"], choice["averaging"])
        )
        ers = "–" if best["ers"] is None else f"{best['ers']:.1f}"
        cosine = "–" if best["mean_cosine"] is None else f"{best['mean_cosine']:.2f}"
        needed = f"{100 * choice['least_recall']:.1f}" + ("" if choice["reached"] else " (none has it)")
        name = title.replace("|", "\\|")
        lines.append(
            f"| {name} | {choice['learning_rate']:g} | {choice['averaging']:g} | {100 * best['recall_at_1']:.1f} "
            f"| {cosine} | {ers} | {needed} |"
        )
    return [*lines, ""]
