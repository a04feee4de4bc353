"""How much faster is a hardness-manipulation step than the same step written plainly?

    python benchmarks/hm_step.py --bundle models/zoo/caltech101-robust --data-root DIR
    python benchmarks/hm_step.py --bundle models/zoo/demo-robust --tiny    # a try, in a minute
    python benchmarks/hm_step.py --authors-code ROBRANK                    # with the authors' own code too

All are timed in one run, on the same batches, with one thread: sampling, perturbation (η = 8, 56 triplets, 64 px), the
update's loss and its gradient. `tests/reference/hm.py` holds the plain one; the authors' own code is loaded from a
checkout of https://github.com/cdluminate/robrank. They take turns, batch by batch; the fast one has a process of its
own, whose memory is allocated as in training. Before timing, the fast and the plain one run in float64 on the same
triplets; how far they differ is part of the result. The result goes to benchmarks/results/hm_step.json.
"""

import copy
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.authors_code import AuthorsCode, AuthorsModel, authors_hm_step, load_authors_code
from benchmarks.bundles import BundleOptions, bundle_config
from benchmarks.command import ROOT, environment, parse_options, timed
from benchmarks.turns import OwnProcess
from hardrank.models.bundle import load_card, load_embedder
from hardrank.models.embedder import Embed, Embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.pgd import PGDOptions
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.augmentation import AugmentationOptions, augment
from hardrank.trainer.data.batches import spc2_batches
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.defenses import Conditions, DefenseResult, parse_defense
from hardrank.trainer.defenses.destinations import normalized_loss
from hardrank.trainer.defenses.hm import HardnessManipulation
from hardrank.trainer.metric.samplers import Sampler, draw_triplets
from hardrank.trainer.runtime.environment import gains_from_bf16
from hardrank.trainer.runtime.malloc import tune_allocator
from hardrank.trainer.training.precision import network_for_update, set_training_mode
from tests.reference.hm import PlainStep, hm_step, softhard_triplets

EPSILON, ALPHA, STEPS, MARGIN = 8 / 255, 1 / 255, 8, 0.2
ATTACK = PGDOptions(epsilon=EPSILON, alpha=ALPHA, steps=STEPS)


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"batches": 1, "pairs": 4}

    bundle: Path = ROOT / "models/zoo/caltech101-robust"
    """The trained model; its recipe must name hardness manipulation."""
    batches: int = 6
    """SPC-2 batches that are timed."""
    pairs: int = 56
    """Classes in a batch, two images of each."""
    threads: int = 1
    """Threads of every contender."""
    authors_code: Path | None = None
    """A checkout of the authors' code, to time it too."""


@dataclass(frozen=True)
class Scene:
    """A batch and the state of training in which its step is taken."""

    images: Tensor
    labels: Tensor
    previous_loss: float
    defense: HardnessManipulation
    seed: int

    @property
    def destination(self) -> float:
        """H_D of the gradual adversary."""
        return -MARGIN * normalized_loss(self.previous_loss, MARGIN)


def plain_step(network: Embedder, scene: Scene, images: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> PlainStep:
    """The step of the reference implementation on given triplets."""
    return hm_step(
        network,
        images,
        triplets,
        torch.full((len(triplets[0]),), scene.destination, dtype=images.dtype),
        epsilon=EPSILON,
        alpha=ALPHA,
        steps=STEPS,
        margin=MARGIN,
        ics=scene.defense.ics,
    )


def fast_step(network: Embed, frozen: FoldedEmbedder, scene: Scene, images: Tensor) -> DefenseResult:
    """The step of the trainer."""
    conditions = Conditions(
        network=network,
        independent=True,
        frozen=frozen,
        attack=ATTACK,
        previous_loss=scene.previous_loss,
        margin=MARGIN,
        generator=torch.Generator().manual_seed(scene.seed),
    )
    outcome = scene.defense(images, scene.labels, conditions)
    assert outcome is not None
    return outcome


def plain(embedder: Embedder, scene: Scene) -> float:
    """A step as one reads it in the paper, up to the gradients of the update."""
    with torch.no_grad():
        benign = embedder.eval()(scene.images)
    anchors, positives, negatives = map(
        torch.tensor, softhard_triplets(benign, scene.labels, random.Random(scene.seed))
    )
    step = plain_step(embedder, scene, scene.images, (anchors, positives, negatives))
    embedder.zero_grad()
    step.loss.backward()
    return step.loss.item()


def authors(model: AuthorsModel, code: AuthorsCode, scene: Scene) -> float:
    """The step in the authors' code."""
    loss = authors_hm_step(code, model, scene.images, scene.labels, previous_loss=scene.previous_loss)
    model.zero_grad()
    loss.backward()
    return loss.item()


def fast(embedder: Embedder, twin: FoldedEmbedder, scene: Scene, *, low_precision: bool) -> float:
    """The same step as training does it."""
    twin.refresh()
    set_training_mode(embedder, freeze_batch_norm=True)
    network = network_for_update(embedder, twin, low_precision=low_precision, freeze_batch_norm=True)
    outcome = fast_step(network, twin, scene, scene.images.contiguous(memory_format=torch.channels_last))
    embedder.zero_grad()
    outcome.loss.backward()
    return outcome.loss.item()


def agreement(embedder: Embedder, scene: Scene) -> dict[str, float]:
    """Differences of both steps in float64, on the same triplets."""
    double = copy.deepcopy(embedder).double().eval()
    images = scene.images.double()
    with torch.no_grad():
        benign = double(images)
    t = draw_triplets(Sampler.SOFTHARD, benign, scene.labels, generator=torch.Generator().manual_seed(scene.seed))
    outcome = fast_step(double, FoldedEmbedder(double), scene, images)
    slow = plain_step(double, scene, images, (t.anchor, t.positive, t.negative))
    gradients = []
    for loss in (outcome.loss, slow.loss):
        double.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in double.parameters() if p.grad is not None]))
    return {
        "loss": abs(outcome.loss.item() - slow.loss.item()),
        "largest_gradient": (gradients[0] - gradients[1]).abs().max().item(),
    }


def scenes(options: Options) -> Iterator[Scene]:
    """SPC-2 batches of the bundle's training images, with its defense and last loss."""
    config = bundle_config(options.bundle, options.data_root)
    defense = parse_defense(config.robust.defense)
    assert isinstance(defense, HardnessManipulation)
    train = load_dataset(config.data).train
    store = ImageStore(train, config.preprocessing)
    for index, rows in enumerate(
        spc2_batches(train.labels, pairs=options.pairs, epoch=0, seed=0)[: options.batches + 1]
    ):
        yield Scene(
            images=augment(store[rows], config.preprocessing.crop, AugmentationOptions(), np.random.default_rng(index)),
            labels=torch.from_numpy(train.labels[rows]),
            previous_loss=load_card(options.bundle).training["triplet_loss"],
            defense=defense,
            seed=index,
        )


def slow_forms(options: Options) -> dict[str, Callable[[int], float]]:
    """Return the plain step and that of the authors: seconds on a batch."""
    forms = {"plain": partial(plain, load_embedder(options.bundle))}
    if options.authors_code:
        code = load_authors_code(options.authors_code)
        forms["authors"] = partial(authors, AuthorsModel(load_embedder(options.bundle), code, ATTACK), code)
    return _timed_on_batches(options, forms)


def fast_forms(options: Options) -> dict[str, Callable[[int], float]]:
    """Return the fast step in both precisions: seconds on a batch."""
    tune_allocator()
    embedder = load_embedder(options.bundle).to(memory_format=torch.channels_last)
    return _timed_on_batches(
        options,
        {
            name: partial(fast, embedder, FoldedEmbedder(embedder, dtype=dtype), low_precision=dtype == torch.bfloat16)
            for name, dtype in (("fast float32", torch.float32), ("fast bf16", torch.bfloat16))
        },
    )


Form = Callable[[Scene], float]


def _timed_on_batches(options: Options, forms: Mapping[str, Form]) -> dict[str, Callable[[int], float]]:
    torch.set_num_threads(options.threads)  # the authors' code sets the number of OpenMP threads when it is imported
    batches = list(scenes(options))

    def seconds(form: Form, batch: int) -> float:
        return timed(partial(form, batches[batch]))

    return {name: partial(seconds, form) for name, form in forms.items()}


def median_seconds(options: Options) -> dict[str, float]:
    """Median seconds of each form, in turns; the first batch warms up caches and memory."""
    seconds: dict[str, list[float]] = {}
    slow_names = ["plain", *(["authors"] if options.authors_code else [])]
    with OwnProcess(slow_forms, options) as slow, OwnProcess(fast_forms, options) as quick:
        turns = [*((name, slow) for name in slow_names), *((name, quick) for name in ("fast float32", "fast bf16"))]
        for batch in range(options.batches + 1):
            for name, process in turns:
                seconds.setdefault(name, []).append(process.run(name, batch))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Time all and write the result."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    torch.set_num_threads(options.threads)
    first = next(scenes(options))
    agreed = agreement(load_embedder(options.bundle), first)
    medians = median_seconds(options)
    slow = [name for name in medians if not name.startswith("fast")]
    low = gains_from_bf16(torch.device("cpu"))
    result: dict[str, Any] = {
        "command": "python benchmarks/hm_step.py" + (" --authors-code ROBRANK" if options.authors_code else ""),
        "what": f"one HM training step: sampling, 8 PGD steps on {options.pairs} triplets, loss and its gradients",
        "bundle": options.bundle.name,
        "defense": first.defense.name,
        "previous_loss": first.previous_loss,
        "threads": options.threads,
        "seconds_per_step": {name: round(value, 3) for name, value in medians.items()},
        **{
            f"{name}_over_fast": {
                fast: round(medians[name] / medians[fast], 2) for fast in ("fast float32", "fast bf16")
            }
            for name in slow
        },
        "default_here": "fast bf16" if low else "fast float32",
        "differences_float64": agreed,
        "batches": options.batches,
        **environment(low_precision=low),
    }
    options.write("hm_step", result)


if __name__ == "__main__":
    main()
