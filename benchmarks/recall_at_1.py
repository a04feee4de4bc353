"""How much of Recall@1 do the attacks on it leave, with more steps, and with gradients in bf16?

    python benchmarks/recall_at_1.py --bundle models/zoo/demo-robust
    python benchmarks/recall_at_1.py --tiny    # a try, in a minute

On a sample of a bundle's test images, within ε = 8/255 and with steps of α = 3/255: ES, LTM and MARGIN with the steps
of the scorecard, and MARGIN with `--long-steps`. On the first `--bf16-images` of them, LTM with gradients in bf16 and
in float32, both judged in float32, as audits do where the processor is faster with bf16. The result goes to
benchmarks/results/recall_at_1.json, by bundle.
"""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.attacks import load_setting
from benchmarks.bundles import BundleOptions
from benchmarks.command import parse_options
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.attack import Attack, Gallery, victims_in
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from hardrank.trainer.evaluation.robustness import RobustnessOptions, bytes_provider, sample_queries
from hardrank.trainer.metric.distances import recall_at_1

SEED = 0
BATCH = 50
"""Images attacked at a time."""


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"images": 2, "steps": 2, "long_steps": 3, "bf16_images": 2}

    images: int = 200
    """Images attacked."""
    steps: int = 32
    """Steps of the scorecard."""
    long_steps: int = 100
    """Steps of the longer MARGIN."""
    bf16_images: int = 32
    """Images attacked in bf16, which is slow on a processor without it."""


def measure(options: Options) -> dict[str, Any]:
    """Measure one bundle."""
    setting = load_setting(options, steps=options.steps)
    exact = FoldedEmbedder(setting.embedder)
    low = FoldedEmbedder(setting.embedder, dtype=torch.bfloat16)
    gallery = Gallery(setting.gallery, setting.labels)
    provide = bytes_provider(setting.pixels)
    rows = sample_queries(len(setting.labels), options.images, seed=SEED)
    few = rows[: options.bf16_images]
    protocol = RobustnessOptions()

    def left(attack: Attack, steps: int, *, network: FoldedEmbedder = exact, attacked: Tensor = rows) -> dict[str, Any]:
        """Return the Recall@1 in % that an attack leaves, and its cost."""
        began = time.perf_counter()
        results = [
            run_attack(
                attack,
                network,
                provide(block),
                victims_in(gallery, block),
                gallery,
                AttackOptions(epsilon=protocol.epsilon, alpha=protocol.alpha, steps=steps),
                seed=SEED,
                judge=exact,
            )
            for block in attacked.split(BATCH)
        ]
        place = [figure.recall for figure in attack.figures].index(True)
        after = torch.cat([result.after[:, place] for result in results])
        found = {
            "recall_at_1": round(after.mean().item(), 2),
            "gradients_per_image": round(sum(result.passes for result in results) / len(attacked), 1),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(f"{attack.name}, {steps} steps: {found}", flush=True)
        return found

    victims = victims_in(gallery, rows)
    benign = recall_at_1(victims.embeddings, gallery.embeddings, gallery.labels, victims.own, victims.labels)
    return {
        "images": len(rows),
        "gallery": list(setting.gallery.shape),
        "epsilon": protocol.epsilon,
        "alpha": protocol.alpha,
        "benign": round(100 * benign.double().mean().item(), 2),
        "ES": left(make_attack("ES"), options.steps),
        "LTM": left(make_attack("LTM"), options.steps),
        "MARGIN": left(make_attack("MARGIN"), options.steps),
        "MARGIN, longer": left(make_attack("MARGIN"), options.long_steps),
        "LTM by precision": {
            "images": len(few),
            "float32": left(make_attack("LTM"), options.steps, attacked=few),
            "bf16": left(make_attack("LTM"), options.steps, network=low, attacked=few),
        },
    }


def main() -> None:
    """Measure a bundle and add it to the results."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    options.write_bundle(
        "recall_at_1",
        measure(options),
        what="the Recall@1 in % that attacks on it leave, by bundle",
        options={"steps": options.steps, "long_steps": options.long_steps, "seed": SEED},
    )


if __name__ == "__main__":
    main()
