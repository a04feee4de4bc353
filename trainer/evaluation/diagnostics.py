"""Checks whether a scorecard can be trusted: masked gradients, unfinished searches, seed variance, collapse."""

from collections.abc import Mapping, Sequence

import numpy as np

from hardrank.trainer.attacks.attack import Attack, Figure, Gallery
from hardrank.trainer.evaluation.scorecard import Check, CheckKind, PerImage, scores_of
from hardrank.trainer.metric.distances import mean_cosine


def check_attacks(table: PerImage, attacks: Mapping[str, Attack], *, steps: int) -> list[Check]:
    """Return what is suspicious about each attack: no gradient, a loss still falling, or noise doing better.

    Args:
        table: the results per image.
        attacks: those that ran, by name.
        steps: how many steps each took.
    """
    return [
        check
        for name, attack in attacks.items()
        for check in (
            *_hidden_gradient(table, name),
            *_still_falling(table, name, steps),
            *(check for figure in attack.figures for check in _noise_beats(table, figure)),
        )
    ]


def _hidden_gradient(table: PerImage, name: str) -> list[Check]:
    blind = int(table.columns[f"{name} blind"].sum())
    if not blind:
        return []
    message = (
        f"{blind} of {len(table.rows)} images have a zero gradient at the start although the loss does not: "
        "the network masks its gradients, so gradient attacks prove nothing"
    )
    return [Check(CheckKind.ZERO_GRADIENT, name, message)]


def _still_falling(table: PerImage, name: str, steps: int) -> list[Check]:
    first, late, end = (table.columns[f"{name} {k} loss"].mean() for k in ("first", "late", "end"))
    if not (first - end > 0 and late - end > 0.05 * (first - end)):
        return []
    message = (
        f"{100 * (late - end) / (first - end):.0f} % of the decrease of the loss came in the last quarter of the "
        f"{steps} steps: more steps would find worse images"
    )
    return [Check(CheckKind.STILL_FALLING, name, message)]


def _noise_beats(table: PerImage, figure: Figure) -> list[Check]:
    one = {figure.key: figure}
    gap = scores_of(table, one)[:, 0] - scores_of(table, one, " noise")[:, 0]
    if not gap.mean() > max(0.1, 2 * gap.std() / len(gap) ** 0.5):
        return []
    message = f"random noise of the same budget scores {gap.mean():.1f} points lower than the attack"
    return [Check(CheckKind.NOISE_BEATS_ATTACK, figure.key, message)]


def check_collapse(gallery: Gallery, limit: float = 0.5) -> list[Check]:
    """Return a check if the embeddings have collapsed: the mean cosine of all pairs is above `limit`."""
    cosine = mean_cosine(gallery.embeddings)
    if not cosine > limit:
        return []
    message = (
        f"pairs have a mean cosine of {cosine:.2f}: a collapsed model scores well because no embedding can move far"
    )
    return [Check(CheckKind.COLLAPSE, "model", message)]


def compare_seeds(tables: Sequence[PerImage], figures: Mapping[str, Figure]) -> list[Check]:
    """Return which figures of the same queries, attacked with different seeds, differ by more than chance.

    A difference counts above 1 point and 4 standard errors of the mean paired difference from the first table.
    """
    checks = []
    for key, figure in figures.items():
        scores = [scores_of(table, {key: figure})[:, 0] for table in tables]
        for other in scores[1:]:
            gap = other - scores[0]
            error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else np.inf
            if abs(gap.mean()) > max(1.0, 4 * error):
                message = f"its score differs by {gap.mean():+.1f} ± {error:.1f} points between seeds"
                checks.append(Check(CheckKind.SEED_VARIANCE, key, message))
    return checks
