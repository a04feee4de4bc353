"""How much faster is a hardness-manipulation step than the same step written plainly?

    python benchmarks/hm_step.py [--bundle models/zoo/caltech101-robust] [--data-root DIR]

Both are timed in one run, in turns, on the same batches: sampling, perturbation (η = 8, 56 triplets, 64 px), update loss
and its gradient. `plain_hm.py` holds the plain one. Before timing, both run in float64 on the same triplets and must
agree. The result goes to benchmarks/results/hm_step.json.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plain_hm import hm_step, softhard_triplets  # noqa: E402
from models.bundle import load_card, load_embedder, preprocessing_of  # noqa: E402
from models.embedder import Embedder  # noqa: E402
from models.files import write_json  # noqa: E402
from models.folded import FoldedEmbedder  # noqa: E402
from trainer.attacks.pgd import PGDOptions, pgd  # noqa: E402
from trainer.config import parse_config  # noqa: E402
from trainer.data import load_dataset  # noqa: E402
from trainer.data.batches import spc2_batches  # noqa: E402
from trainer.data.store import ImageStore  # noqa: E402
from trainer.defenses import Conditions, parse_defense  # noqa: E402
from trainer.defenses.hm import TowardsHardness  # noqa: E402
from trainer.environment import gains_from_bf16, hardware, versions  # noqa: E402
from trainer.hardness import hardness  # noqa: E402
from trainer.training import MixedPrecision  # noqa: E402
from trainer.triplets import Sampler, draw_triplets  # noqa: E402

EPSILON, ALPHA, STEPS, MARGIN = 8 / 255, 1 / 255, 8, 0.2


def plain(embedder: Embedder, images: Tensor, labels: Tensor, l_bar: float, ics: float, seed: int) -> float:
    """A step as one reads it in the paper, up to the gradients of the update."""
    with torch.no_grad():
        benign = embedder.eval()(images)
    rows = softhard_triplets(benign, labels, random.Random(seed))
    triplets = (torch.tensor(rows[0]), torch.tensor(rows[1]), torch.tensor(rows[2]))
    destination = torch.full((len(rows[0]),), -MARGIN * l_bar)
    step = hm_step(
        embedder,
        images,
        triplets,
        destination,
        epsilon=EPSILON,
        alpha=ALPHA,
        steps=STEPS,
        margin=MARGIN,
        ics=ics,
    )
    embedder.zero_grad()
    step.loss.backward()
    return step.loss.item()


def fast(
    embedder: Embedder,
    twin: FoldedEmbedder,
    low: bool,
    images: Tensor,
    labels: Tensor,
    l: float,
    name: str,
    seed: int,
) -> float:
    """The same step as training does it."""
    twin.refresh()
    conditions = Conditions(
        network=MixedPrecision(embedder, enabled=low),
        frozen=twin,
        attack=PGDOptions(epsilon=EPSILON, alpha=ALPHA, steps=STEPS),
        previous_loss=l,
        margin=MARGIN,
        generator=torch.Generator().manual_seed(seed),
    )
    outcome = parse_defense(name)(images, labels, conditions)
    assert outcome is not None
    embedder.zero_grad()
    outcome.loss.backward()
    return outcome.loss.item()


def agreement(embedder: Embedder, images: Tensor, labels: Tensor, l_bar: float) -> dict[str, float]:
    """Largest differences of both steps in float64, on the same triplets."""
    double = load_double(embedder)
    images = images.double().contiguous()
    with torch.no_grad():
        benign = double(images)
    t = draw_triplets(Sampler.SOFTHARD, benign, labels, generator=torch.Generator().manual_seed(0))
    destination = torch.full((len(t),), -MARGIN * l_bar, dtype=torch.float64)
    parts = (t.anchor, t.positive, t.negative)
    slow = hm_step(
        double, images, parts, destination, epsilon=EPSILON, alpha=ALPHA, steps=STEPS, margin=MARGIN, ics=0
    )
    twin = FoldedEmbedder(double)
    moved = pgd(
        twin,
        torch.stack(t.gather(images), dim=1),
        TowardsHardness(destination),
        PGDOptions(epsilon=EPSILON, alpha=ALPHA, steps=STEPS),
        moving=hardness(*t.gather(benign)) < destination,
    )
    adversarial = moved.transpose(0, 1).flatten(0, 1)
    with torch.no_grad():
        one, other = double(adversarial).chunk(3), double(slow.images).chunk(3)
    return {
        "hardness": (hardness(*one) - hardness(*other)).abs().max().item(),
        "pixels_that_differ": float(((adversarial - slow.images).abs() > 1e-5).float().mean()),
    }


def load_double(embedder: Embedder) -> Embedder:
    """A float64 copy in the default layout."""
    import copy

    return copy.deepcopy(embedder).to(dtype=torch.float64, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload, no-any-return]


def timed(run: Callable[[], float]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Time both and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/zoo/caltech101-robust")
    parser.add_argument("--data-root", type=Path, help="the images, where they have moved since training")
    parser.add_argument("--batches", type=int, default=6, help="SPC-2 batches timed (default 6)")
    parser.add_argument("--result", type=Path, default=ROOT / "benchmarks/results/hm_step.json")
    options = parser.parse_args()

    card = load_card(options.bundle)
    content = dict(card.config)
    if options.data_root:
        content["data"] = {**content["data"], "root": str(options.data_root)}
    config = parse_config(content, source=str(options.bundle))
    embedder = load_embedder(options.bundle)
    contiguous = load_embedder(options.bundle)
    embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = load_dataset(config.data).train
    store = ImageStore(train, config.preprocessing.resize)
    crop = preprocessing_of(card).crop
    low = gains_from_bf16(torch.device("cpu"))
    twins = {"float32": FoldedEmbedder(embedder), "bf16": FoldedEmbedder(embedder, dtype=torch.bfloat16)}
    l = float(card.training["previous_loss"])
    ics = float(getattr(parse_defense(config.robust.defense), "ics", 0.0))
    seconds: dict[str, list[float]] = {"plain": [], "fast float32": [], "fast bf16": []}
    batches = spc2_batches(train.labels, pairs=56, epoch=0, seed=0)[: options.batches + 1]
    agreed: dict[str, float] = {}
    for index, rows in enumerate(batches):
        pixels = store.augmented(rows, crop, np.random.default_rng(index))
        images = torch.from_numpy(pixels).float().div_(255)
        last = images.contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(train.labels[rows])
        if index == 0:
            agreed = agreement(contiguous, images, labels, min(1.0, l / MARGIN))
        runs = {
            "plain": lambda: plain(contiguous, images, labels, min(1.0, l / MARGIN), ics, index),
            "fast float32": lambda: fast(
                embedder, twins["float32"], False, last, labels, l, config.robust.defense, index
            ),
            "fast bf16": lambda: fast(
                embedder, twins["bf16"], True, last, labels, l, config.robust.defense, index
            ),
        }
        for name, run in runs.items():
            took = timed(run)
            if index:  # the first batch warms up
                seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result: dict[str, Any] = {
        "command": "python benchmarks/hm_step.py",
        "what": "one HM training step: sampling, 8 PGD steps on 56 triplets, loss and gradients of the update",
        "bundle": card.name,
        "defense": config.robust.defense,
        "previous_loss": l,
        "seconds_per_step": {name: round(value, 3) for name, value in medians.items()},
        "ratio_plain_to_fast": {
            name: round(medians["plain"] / medians[name], 2) for name in ("fast float32", "fast bf16")
        },
        "default_here": "fast bf16" if low else "fast float32",
        "agreement_float64": agreed,
        "batches": options.batches,
        "hardware": hardware(torch.device("cpu"), low_precision=low),
        "versions": versions(),
    }
    write_json(options.result, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
