"""How far do universal perturbations, patches and hubs get?

    python benchmarks/threats.py --bundle models/zoo/demo-robust
    python benchmarks/threats.py --tiny    # a try, in a minute

On a sample of a bundle's test images, within ε = 8/255 where ε applies. Universal perturbations and hubs: the mean over
`--seeds` draws of targets, starts and images to learn on, with its range; all else: one seed. Intervals are 95 %
bootstrap intervals over the images, of the first seed. Hubs are made with the margin, with the mean similarity, and
with the margin by APGD with `--long-steps` steps; whether a scan finds them, `hub_scan.py` measures. The result goes to
benchmarks/results/threats.json, by bundle.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks import Setting, load_setting
from benchmarks.bundles import BundleOptions
from benchmarks.command import parse_options
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.attack import Gallery, victims_in
from hardrank.trainer.attacks.registry import make_attack
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions, run_attack
from hardrank.trainer.evaluation.robustness import RobustnessOptions, bytes_provider, sample_queries
from hardrank.trainer.evaluation.scorecard import bootstrap_interval
from hardrank.trainer.evaluation.threats import ThreatOptions, ThreatResult, measure_threats

BATCH = 50
"""Images attacked at a time."""


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"images": 4, "steps": 2, "long_steps": 2, "seeds": 1, "epochs": 1}

    images: int = 100
    """Images attacked."""
    steps: int = 32
    """Steps of patches and hubs."""
    long_steps: int = 100
    """Steps of the longer hub attack."""
    seeds: int = 3
    """Seeds of universal perturbations and hubs."""
    epochs: int = 20
    """Passes over the images that universal perturbations are learnt on."""
    goals: tuple[str, ...] = ("ES", "TMA", "QA+", "CA+")
    """Attacks whose goals universal perturbations and patches pursue."""


def measure(options: Options) -> dict[str, Any]:
    """Measure one bundle."""
    setting = load_setting(options, steps=options.steps)
    network = FoldedEmbedder(setting.embedder)
    rows = sample_queries(len(setting.labels), options.images, seed=0)
    base = RobustnessOptions(steps=options.steps)

    def threat(name: str, seed: int) -> ThreatResult:
        began = time.perf_counter()
        [found] = measure_threats(
            network,
            bytes_provider(setting.pixels),
            setting.gallery,
            setting.labels,
            rows,
            threats=ThreatOptions(
                threats=(name,),
                goals=options.goals,
                images=options.images,
                settings={"universal": {"epochs": options.epochs}},
            ),
            options=base,
            seed=seed,
            batch=BATCH,
        )
        values = {key: round(figure.value, 3) for key, figure in found.card.figures.items()}
        print(f"{options.bundle.name}, {name}, seed {seed}: {values}, {time.perf_counter() - began:.0f} s", flush=True)
        return found

    universal = [threat("universal", seed) for seed in range(options.seeds)]
    return {
        "images": len(rows),
        "gallery": list(setting.gallery.shape),
        "epsilon": base.epsilon,
        "universal": _over_seeds(universal),
        "hub": measure_hubs(network, setting, rows, options, base),
        "patch": _over_seeds([threat("patch", 0)]),
    }


def _over_seeds(results: Sequence[ThreatResult]) -> dict[str, Any]:
    """Return each figure's mean over the seeds, its range, and the interval over the images of the first seed."""
    first = results[0]
    figures = {}
    for key, figure in first.card.figures.items():
        values = [result.card.figures[key].value for result in results]
        figures[key] = {
            "before": round(float(np.mean([result.card.figures[key].before for result in results])), 4),
            "noise": round(float(np.mean([result.card.figures[key].noise for result in results])), 4),
            "value": round(float(np.mean(values)), 4),
            "range": [round(min(values), 4), round(max(values), 4)],
            "first seed": round(figure.value, 4),
            "interval": [round(figure.low, 4), round(figure.high, 4)],
        }
    return {
        "options": {name: getattr(value, "value", value) for name, value in first.options.items()},
        "seeds": [result.card.seeds[0] for result in results],
        "figures": figures,
        "seconds": round(sum(result.seconds for result in results), 1),
    }


def measure_hubs(
    network: FoldedEmbedder, setting: Setting, rows: Tensor, options: Options, base: RobustnessOptions
) -> dict[str, Any]:
    """Return the share of queries that hubs reach, by how they are made."""
    gallery = Gallery(setting.gallery, setting.labels)
    provide = bytes_provider(setting.pixels)
    usual = AttackOptions(epsilon=base.epsilon, alpha=base.alpha, steps=options.steps)
    longer = replace(usual, engine=AttackEngine.APGD, steps=options.long_steps)
    ways = {
        "margin": ("margin", usual, options.seeds),
        "similarity": ("similarity", usual, 1),
        "margin, longer": ("margin", longer, 1),
    }
    found: dict[str, Any] = {}
    for way, (loss, engine, seeds) in ways.items():
        shares: list[Tensor] = []
        for seed in range(seeds):
            results = [
                run_attack(
                    make_attack("HUB", loss=loss),
                    network,
                    provide(block),
                    victims_in(gallery, block),
                    gallery,
                    engine,
                    seed=seed,
                )
                for block in rows.split(BATCH)
            ]
            shares.append(torch.cat([result.after[:, 0] for result in results]))
            before = torch.cat([result.before[:, 0] for result in results])
        low, high = bootstrap_interval(shares[0][:, None].double().numpy(), seed=0, resamples=1000)
        means = [share.mean().item() for share in shares]
        found[way] = {
            "before": round(before.mean().item(), 3),
            "value": round(float(np.mean(means)), 3),
            "range": [round(min(means), 3), round(max(means), 3)],
            "first seed": round(means[0], 3),
            "interval": [round(float(low[0]), 3), round(float(high[0]), 3)],
            "largest": round(torch.cat(shares).max().item(), 3),
            "seeds": seeds,
            "steps": engine.steps,
            "engine": engine.engine.value,
        }
        print(f"{options.bundle.name}, hub, {way}: {found[way]}", flush=True)
    return found


def main() -> None:
    """Measure a bundle and add it to the results."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    options.write_bundle(
        "threats", measure(options), what="what universal perturbations, patches and hubs achieve, by bundle"
    )


if __name__ == "__main__":
    main()
