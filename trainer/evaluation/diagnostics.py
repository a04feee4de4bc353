"""Checks whether a scorecard can be trusted: masked gradients, unfinished searches, seed variance, collapse."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hardrank.trainer.attacks.attack import ROUNDING, Attack, Figure, Gallery
from hardrank.trainer.evaluation.sanity import LARGE_EPSILON, LARGE_STEPS, SEARCH_QUERIES, SanityRuns
from hardrank.trainer.evaluation.scorecard import Check, CheckKind, PerImage, scores_of
from hardrank.trainer.metric.distances import mean_cosine, recall_at_1

NOISE_FACTOR: Final = 2.0
"""An attack must lower its loss by at least this multiple of what random noise of the same budget changes it."""
LEAST_FALL: Final = 0.02
"""An attack must lower its loss by at least this share of its first value at ε = 8/255; by less at a smaller ε."""
_FALL_EPSILON: Final = 8 / 255
_AT_GOAL: Final = 10.0
"""An attack whose first figure scores less has reached its goal, and need not be compared with noise."""
SEARCH_MARGIN: Final = 0.01
"""How much farther than PGD a search without gradients may move embeddings, apart from chance (2 standard errors)."""
LARGE_RECALL: Final = 10.0
"""Recall@1 in % that may remain at the large budget; more if few classes make random rankings better than that."""
LARGE_SHIFT: Final = 0.5
"""How far PGD must move embeddings at the large budget, as a share of the mean distance of pairs of the gallery."""
CHANCE_QUERIES: Final = 1000
"""Images of which Recall@1 is compared with chance, at most."""
_DEVIATIONS: Final = 3.0
"""Standard deviations of the mean of random retrieval above which a model is better than chance."""
COLLAPSED_COSINE: Final = 0.5
"""A gallery whose pairs have a larger mean cosine has collapsed."""
GRADIENT_FACTOR: Final = 10.0
"""By which factor the change of a loss may differ from the change that its gradient predicts."""


def check_attacks(
    table: PerImage, attacks: Mapping[str, Attack], *, steps: int, epsilon: float = _FALL_EPSILON
) -> list[Check]:
    """Return what is suspicious about each attack: no gradient, no progress, a loss still falling, or noise as good.

    Args:
        table: the results per image.
        attacks: those that ran, by name.
        steps: how many steps each took; a black-box search, whose results count queries, is limited by these.
        epsilon: the L∞ budget.
    """
    return [
        check
        for name, attack in attacks.items()
        for check in (
            *_hidden_gradient(table, name),
            *_barely_beats_noise(table, name, attack.figures[0]),
            *_hardly_falls(table, name, epsilon),
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
    queries = table.columns.get(f"{name} queries")
    searched = queries is not None and bool(queries.any())  # a black-box search is limited by queries, not by steps
    spent = f"{int(queries.max())} queries" if queries is not None and searched else f"{steps} steps"
    message = (
        f"{100 * (late - end) / (first - end):.0f} % of the decrease of the loss came in the last quarter of the "
        f"{spent}: more {'queries' if searched else 'steps'} would lower the score further"
    )
    return [Check(CheckKind.STILL_FALLING, name, message)]


def _noise_beats(table: PerImage, figure: Figure) -> list[Check]:
    one = {figure.key: figure}
    gap = scores_of(table, one)[:, 0] - scores_of(table, one, " noise")[:, 0]
    if not gap.mean() > max(0.1, 2 * gap.std() / len(gap) ** 0.5):
        return []
    message = f"random noise of the same budget scores {gap.mean():.1f} points lower than the attack"
    return [Check(CheckKind.NOISE_BEATS_ATTACK, figure.key, message)]


def _barely_beats_noise(table: PerImage, name: str, figure: Figure) -> list[Check]:
    columns = table.columns
    if f"{name} noise loss" not in columns or scores_of(table, {figure.key: figure}).mean() < _AT_GOAL:
        return []
    benign, noise, final = (columns[f"{name} {kind} loss"] for kind in ("benign", "noise", "final"))
    fall, change = (benign - final).mean(), np.abs(benign - noise).mean()
    if not fall < NOISE_FACTOR * change:
        return []
    message = (
        f"the attack lowers its loss by {fall:.3g}, random noise of the same budget changes it by {change:.3g}: less "
        f"than {NOISE_FACTOR:g} times as much, so the gradients are masked or the attack is too weak"
    )
    return [Check(CheckKind.BARELY_BEATS_NOISE, name, message)]


def _hardly_falls(table: PerImage, name: str, epsilon: float) -> list[Check]:
    first, end = (table.columns[f"{name} {kind} loss"].mean() for kind in ("first", "end"))
    least = LEAST_FALL * min(1.0, epsilon / _FALL_EPSILON) * abs(first)
    if not first - end < least:
        return []
    message = (
        f"the loss goes from {first:.3g} to {end:.3g}, which is less than {100 * LEAST_FALL:g} % at ε = 8/255: "
        "the gradients are masked, or the attack is too weak"
    )
    return [Check(CheckKind.HARDLY_FALLS, name, message)]


def check_search(runs: SanityRuns) -> list[Check]:
    """Return a check if a search without gradients moves embeddings farther than the attack with gradients."""
    if runs.search_shift is None:
        return []
    gap = runs.search_shift - runs.attack_shift
    if not gap.mean() > max(SEARCH_MARGIN, 2 * gap.std() / len(gap) ** 0.5):
        return []
    message = (
        f"a search without gradients moves embeddings by {runs.search_shift.mean():.3f} with {SEARCH_QUERIES} queries, "
        f"the attack by {runs.attack_shift.mean():.3f} ({len(gap)} images): the gradients are masked or the attack is "
        "too weak"
    )
    return [Check(CheckKind.SEARCH_BEATS_ATTACK, "ES", message)]


def check_large_budget(runs: SanityRuns, *, pair_distance: float, chance: float) -> list[Check]:
    """Return a check if PGD with a budget that makes images unrecognizable does not break the model.

    Args:
        runs: the sanity runs.
        pair_distance: mean distance of pairs of the gallery.
        chance: Recall@1 of random rankings, 0 to 1; two standard errors above it are allowed.
    """
    shift, recall = runs.large_shift.mean(), runs.large_recall.mean()
    limit = max(LARGE_RECALL, 100 * (chance + 2 * (chance * (1 - chance) / len(runs.large_recall)) ** 0.5))
    if recall <= limit and shift >= LARGE_SHIFT * pair_distance:
        return []
    message = (
        f"{LARGE_STEPS} steps with ε = {255 * LARGE_EPSILON:.0f}/255 move embeddings by {shift:.3f} (at least "
        f"{LARGE_SHIFT * pair_distance:.3f} expected) and leave a Recall@1 of {recall:.0f} % (at most "
        f"{limit:.0f} %; {len(runs.large_shift)} images): no model withstands this budget, so the gradients are "
        "masked"
    )
    return [Check(CheckKind.SURVIVES_LARGE_BUDGET, "model", message)]


def check_gradient(runs: SanityRuns) -> list[Check]:
    """Return a check if a small move along the gradient does not change the loss as the gradient predicts."""
    predicted, actual = runs.predicted.mean(), runs.actual.mean()
    if predicted / GRADIENT_FACTOR <= actual <= predicted * GRADIENT_FACTOR:
        return []
    message = (
        f"a move of half a gray level along the gradient changes a cosine by {actual:.3g}, the gradient predicts "
        f"{predicted:.3g} (a factor of {GRADIENT_FACTOR:g} is allowed): the gradients are masked or scaled"
    )
    return [Check(CheckKind.GRADIENT_MISMATCH, "model", message)]


def check_determinism(first: np.ndarray, again: np.ndarray, part: np.ndarray) -> list[Check]:
    """Return checks of how a network embeds the same images.

    Args:
        first: (n,D) embeddings.
        again: (n,D) the same images once more.
        part: (m,D) the first m of the images as a batch of their own.
    """
    if (first != again).any():
        away = np.linalg.norm(first - again, axis=1).mean()
        message = (
            f"the same images are embedded differently each time, on average {away:.2g} apart, so gradient attacks are "
            "unreliable; the strong search averages several passes, and the option eot does so for all attacks"
        )
        return [Check(CheckKind.RANDOM_NETWORK, "model", message)]
    away = np.linalg.norm(first[: len(part)] - part, axis=1).max()
    if not away > ROUNDING:
        return []
    message = (
        f"an image is embedded {away:.2g} away in another batch (at most {ROUNDING:g} is rounding): batch norm is in "
        "training mode; put the network in evaluation mode"
    )
    return [Check(CheckKind.BATCH_DEPENDENT, "model", message)]


def sanity_figures(runs: SanityRuns) -> dict[str, float]:
    """Return what the sanity runs measured, as means, for the record."""
    searched = {} if runs.search_shift is None else {"search shift": float(runs.search_shift.mean())}
    return {
        "images": len(runs.attack_shift),
        "attack shift": float(runs.attack_shift.mean()),
        **searched,
        "large shift": float(runs.large_shift.mean()),
        "large recall": float(runs.large_recall.mean()),
        "predicted change": float(runs.predicted.mean()),
        "actual change": float(runs.actual.mean()),
        "passes": runs.passes,
    }


def check_collapse(gallery: Gallery) -> list[Check]:
    """Return a check if the embeddings have collapsed: the mean cosine of all pairs is above `COLLAPSED_COSINE`."""
    cosine = mean_cosine(gallery.embeddings)
    if not cosine > COLLAPSED_COSINE:
        return []
    message = (
        f"pairs have a mean cosine of {cosine:.2f}: a collapsed model scores well because no embedding can move far"
    )
    return [Check(CheckKind.COLLAPSE, "model", message)]


def random_recall(labels: Tensor) -> float:
    """Return Recall@1 of random rankings, 0 to 1: the mean of (n − 1) / (N − 1) where a class has n > 1 of N.

    Args:
        labels: (N,) classes.
    """
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    of_images = sizes[classes]
    matched = of_images[of_images > 1]
    return ((matched - 1) / (len(labels) - 1)).double().mean().item() if len(matched) else 0.0


@torch.no_grad()
def retrieves_at_chance(gallery: Gallery) -> tuple[float, float] | None:
    """Return Recall@1 of benign images and that of random rankings if the former is no better; else None.

    At random it is (n − 1) / (N − 1) for an image of a class of n among N. At most `CHANCE_QUERIES` images are queries.
    """
    labels, points = gallery.labels, gallery.embeddings
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    rows = (sizes[classes] > 1).nonzero().squeeze(1)
    count = min(len(rows), CHANCE_QUERIES)
    if not count:
        return None
    rows = rows[torch.arange(count, device=rows.device) * len(rows) // count]
    found = recall_at_1(points[rows], points, labels, rows, labels[rows]).double().mean().item()
    chance = random_recall(labels)
    spread = (chance * (1 - chance) / count) ** 0.5
    return None if chance == 1 or found > chance + _DEVIATIONS * spread else (found, chance)


def check_chance(gallery: Gallery) -> list[Check]:
    """Return a check if benign images are retrieved no better than at random, as with a wrong input scale."""
    at_chance = retrieves_at_chance(gallery)
    if at_chance is None:
        return []
    message = (
        f"Recall@1 of benign images is {at_chance[0]:.3f}, and chance is {at_chance[1]:.3f}: the pixel values, the "
        "weights or the classes are not those of the model, and a score says nothing"
    )
    return [Check(CheckKind.CHANCE, "model", message)]


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
