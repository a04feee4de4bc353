"""Sanity runs on a sample of images: a search without gradients, a large budget, and gradients against differences."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from hardrank.models.embedder import Embed
from hardrank.trainer.attacks.attack import Gallery, Victims
from hardrank.trainer.attacks.es import EmbeddingShift
from hardrank.trainer.attacks.options import AttackError
from hardrank.trainer.attacks.pgd import Norm
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from hardrank.trainer.attacks.squares import square_steps
from hardrank.trainer.attacks.starts import random_numbers
from hardrank.trainer.evaluation.blocks import EvaluationPhase, EvaluationTask, cancelled
from hardrank.trainer.evaluation.scorecard import PerImage

SEARCH_QUERIES: Final = 64
"""Queries of the search without gradients, for each image."""
LARGE_EPSILON: Final = 64 / 255
"""The large budget (L∞); in L2 it is the length of a perturbation with this value at each pixel."""
LARGE_STEPS: Final = 20
"""PGD steps at the large budget, an eighth of it long."""
DIFFERENCE: Final = 0.5 / 255
"""How far pixels move to compare gradients with differences of the loss."""
LARGEST_CHANGE: Final = 0.05
"""The change of a cosine that the gradient may predict for the move."""


_TRAINING_ONLY: Final = frozenset({"DropPath", "StochasticDepth", "DropBlock2d"})
"""Modules of timm and torchvision that act at random in training mode, by class name."""


def require_evaluation_mode(network: Embed) -> None:
    """Raise `AttackError` if `network` is a module with batch norm or dropout in training mode."""
    if not isinstance(network, nn.Module):
        return
    for name, module in network.named_modules():
        acts = isinstance(module, _BatchNorm | _DropoutNd) or type(module).__name__ in _TRAINING_ONLY
        if acts and module.training:
            raise AttackError(
                f"the network is in training mode: {name or 'it'} is a {type(module).__name__}, so its embeddings are "
                "random or depend on the batch; call eval() before the evaluation"
            )


@dataclass(frozen=True)
class SanityRuns:
    """What the sanity runs measured; an entry for each image of the sample."""

    attack_shift: np.ndarray
    """(n,): distance that ES moves the embedding, with the attack's own options."""
    search_shift: np.ndarray | None
    """(n,): the same for the search without gradients; None where the budget is not L∞."""
    large_shift: np.ndarray
    """(n,): the same for PGD with the large budget."""
    large_recall: np.ndarray
    """(n,): 100 where the image still finds its class under the large budget, else 0."""
    predicted: np.ndarray
    """(n,): change of a loss that its gradient predicts, for a small move along the gradient's signs."""
    actual: np.ndarray
    """(n,): the change that the move makes."""
    passes: int
    """Forward and backward passes of all runs."""


def run_sanity(
    embed: Embed,
    judge: Embed,
    images: Tensor,
    victims: Victims,
    gallery: Gallery,
    options: AttackOptions,
    *,
    seed: int,
    attack_shift: np.ndarray | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> SanityRuns:
    """Run the sanity runs on a sample.

    They cost n · (`LARGE_STEPS` + `SEARCH_QUERIES` + 3) passes, and those of ES where `attack_shift` is not given.

    Args:
        embed: the network that gives the gradients.
        judge: the network that embeds the final images.
        images: (n,3,H,W) in [0,1].
        victims: the same images as the gallery sees them.
        gallery: the benign gallery.
        options: the attack's options.
        seed: of the draws.
        attack_shift: (n,) ES:D of these images with `options`, if it was measured.
        on_step: called between steps; may raise to stop.
    """
    passes = 0
    if attack_shift is None:
        attacked = run_attack(
            EmbeddingShift(), embed, images, victims, gallery, options, seed=seed, judge=judge, on_step=_call(on_step)
        )
        attack_shift, passes = _numbers(attacked.after[:, 0]), attacked.passes
    search_shift = None
    if options.norm is Norm.LINF:
        search_shift = _search(judge, images, victims, options.epsilon, seed=seed, on_step=on_step)
        passes += SEARCH_QUERIES * len(victims)
    scale = 1.0 if options.norm is Norm.LINF else images[0].numel() ** 0.5
    epsilon = max(options.epsilon, LARGE_EPSILON * scale)
    large = AttackOptions(epsilon=epsilon, alpha=epsilon / 8, steps=LARGE_STEPS, norm=options.norm, eot=options.eot)
    broken = run_attack(
        EmbeddingShift(), embed, images, victims, gallery, large, seed=seed, judge=judge, on_step=_call(on_step)
    )
    predicted, actual = _differences(embed, judge, images, victims, gallery, seed=seed)
    return SanityRuns(
        attack_shift=attack_shift,
        search_shift=search_shift,
        large_shift=_numbers(broken.after[:, 0]),
        large_recall=_numbers(broken.after[:, 1]),
        predicted=predicted,
        actual=actual,
        passes=passes + broken.passes + 3 * len(victims),
    )


def join_runs(parts: list[SanityRuns]) -> SanityRuns:
    """Join the runs of parts of a sample."""
    joined = {}
    for field in fields(SanityRuns):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "passes":
            joined[field.name] = sum(values)
        else:
            joined[field.name] = None if values[0] is None else np.concatenate(values)
    return SanityRuns(**joined)


@torch.no_grad()
def _search(
    judge: Embed, images: Tensor, victims: Victims, epsilon: float, *, seed: int, on_step: Callable[[], None]
) -> np.ndarray:
    """Search with squares for the largest shift; returns the distances (n,)."""

    def query(tried: Tensor) -> tuple[Tensor, Tensor]:
        on_step()
        embeddings = judge(tried)
        return -(embeddings - victims.embeddings).norm(dim=1), embeddings

    shifts = torch.zeros(len(victims))
    for state in square_steps(query, images, epsilon=epsilon, ids=victims.ids, queries=SEARCH_QUERIES, seed=seed):
        shifts = -state.losses
    return _numbers(shifts)


def _differences(
    embed: Embed, judge: Embed, images: Tensor, victims: Victims, gallery: Gallery, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move pixels by ±`DIFFERENCE` along the gradient of a cosine; return its predicted and actual change (n,).

    Moving every pixel of a large image would change the cosine by more than a gradient can tell. So only a random
    share of the pixels moves, and the predicted change is at most about `LARGEST_CHANGE`.
    """
    away = gallery.distances(victims.embeddings).argmax(1)  # the farthest item: its cosine has a gradient at the image
    targets = gallery.embeddings[away]
    x = images.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((embed(x) * targets).sum(), x)
    step = DIFFERENCE * gradient.sign()
    share = LARGEST_CHANGE / (2 * gradient * step).double().sum((1, 2, 3), keepdim=True).clamp_min(LARGEST_CHANGE)
    step = torch.where(random_numbers(images, victims.ids, seed=seed) < share, step, torch.zeros_like(step))
    up, down = (images + step).clamp(0, 1), (images - step).clamp(0, 1)
    with torch.no_grad():
        actual = ((judge(up) - judge(down)) * targets).sum(1)
    predicted = (gradient * (up - down)).double().sum((1, 2, 3))
    return _numbers(predicted), _numbers(actual)


def _call(on_step: Callable[[], None]) -> Callable[[object], None]:
    return lambda _: on_step()


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def run_sanity_sample(task: EvaluationTask, victims: Victims, table: PerImage, *, images: int, seed: int) -> SanityRuns:
    """Run the sanity runs on an even sample of at most `images` of the victims, in parts of a batch."""
    stride = slice(None, None, -(-len(victims) // images))
    sample = victims[stride]
    known = table.columns["ES:D"][stride] if isinstance(task.attacks.get("ES"), EmbeddingShift) else None

    steps, total = 0, (LARGE_STEPS + SEARCH_QUERIES) * -(-len(sample) // task.batch)

    def on_step() -> None:
        nonlocal steps
        steps = min(steps + 1, total)
        if task.cancel():
            raise cancelled()
        task.report("sanity runs", len(sample) * steps // total, len(sample), None, phase=EvaluationPhase.SANITY)

    parts = []
    for begin in range(0, len(sample), task.batch):
        part = slice(begin, begin + task.batch)
        some = sample[part]
        parts.append(
            run_sanity(
                task.embed,
                task.judge,
                task.images(some.own),
                some,
                task.gallery,
                task.options,
                seed=seed,
                attack_shift=None if known is None else known[part],
                on_step=on_step,
            )
        )
    (first, *_) = task.processes.gather(join_runs(parts))
    return first
