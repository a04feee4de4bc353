"""Measure the scorecard of the small network."""

from collections.abc import Callable

import torch
from torch import Tensor

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Attack
from hardrank.trainer.attacks.runner import Method
from hardrank.trainer.evaluation.blocks import EvaluationProgress
from hardrank.trainer.evaluation.journal import Journal
from hardrank.trainer.evaluation.robustness import RobustnessOptions, measure_robustness
from hardrank.trainer.evaluation.scorecard import CheckKind, Scorecard
from tests.trainer.conftest import Small


def measure(
    small: Small,
    *,
    options: RobustnessOptions,
    queries: Tensor,
    names: tuple[str, ...] | None = None,
    attacks: dict[str, Attack] | None = None,
    embed: Embed | None = None,
    gallery: Tensor | None = None,
    seed: int = 0,
    batch: int = 16,
    method: Method | None = None,
    resume: Journal | None = None,
    progress: Callable[[EvaluationProgress], None] | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Scorecard:
    """Attack `queries` with the attacks `names`, or `attacks`, or all; network and gallery are those of `small`."""
    return measure_robustness(
        embed or small.embed,
        lambda rows: small.images[rows],
        small.gallery.embeddings if gallery is None else gallery,
        small.gallery.labels,
        queries,
        options=options,
        attacks=attacks if names is None else options.attacks(names),
        seed=seed,
        batch=batch,
        method=method,
        resume=resume,
        progress=progress,
        cancel=cancel,
    )


def kinds(card: Scorecard) -> set[CheckKind]:
    """Return the kinds of checks that failed."""
    return {check.kind for check in card.checks}


EVERY_FIFTH = torch.arange(0, 200, 5)
EVERY_TENTH = torch.arange(0, 200, 10)
