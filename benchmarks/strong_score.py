"""How low is the strong ERS, what does it cost, and how much lower does a much longer search get?

    python benchmarks/strong_score.py --bundle models/zoo/demo-robust
    python benchmarks/strong_score.py --tiny    # a try, in a minute

On a sample of a bundle's test images: the scorecard with the strong search as audits run it; then `exhaustive`, which
keeps the worst of that and, for each attack with its aimed loss, PGD and APGD, `--long-steps` steps, `--long-restarts`
starts, with MARGIN on `--long-targets` targets. `remaining` is how much lower that ERS is. The result goes to
benchmarks/results/strong_score.json, by bundle.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.attacks import load_setting
from benchmarks.bundles import BundleOptions
from benchmarks.command import parse_options
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.attack import Figure, Gallery, victims_in
from hardrank.trainer.attacks.margin import MarginAttack
from hardrank.trainer.attacks.registry import ATTACKS, SCORECARD
from hardrank.trainer.attacks.runner import AttackEngine, AttackOptions
from hardrank.trainer.evaluation.robustness import RobustnessOptions, bytes_provider, measure_robustness, sample_queries
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, PerImage, figures_of
from hardrank.trainer.evaluation.strong import STRONG_IMAGES, search_block
from hardrank.trainer.evaluation.strong_plan import Search

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"images": 2, "steps": 2, "long_steps": 2, "long_restarts": 1, "long_targets": 2}

    images: int = STRONG_IMAGES
    """Images attacked."""
    steps: int = 32
    """Steps of the scorecard."""
    long_steps: int = 100
    """Steps of each run of the exhaustive search."""
    long_restarts: int = 5
    """Starts of each attack in the exhaustive search: the image, then random points."""
    long_targets: int = 10
    """Targets of MARGIN in the exhaustive search."""


def exhaustive_searches(options: Options, base: RobustnessOptions) -> list[Search]:
    """List every attack × engine × start."""
    searches = []
    attacks = base.attacks()
    recall = tuple(key for key, figure in figures_of(attacks).items() if figure.recall)
    for name in ("MARGIN", *[name for name in SCORECARD if name != "MARGIN"]):
        aimed = ATTACKS[name].aim(attacks[name])
        keys = tuple(figure.key for figure in aimed.figures)
        if name == "MARGIN":
            aimed, keys = MarginAttack(targets=options.long_targets), recall
        for engine in AttackEngine:
            for start in range(options.long_restarts):
                settings = AttackOptions(
                    epsilon=base.epsilon,
                    alpha=base.alpha,
                    engine=engine,
                    steps=options.long_steps,
                    random_start=start > 0,
                )
                shown = f"{name}, {engine}, {options.long_steps} steps, start {start}"
                searches.append(Search(name=shown, attack=aimed, keys=keys, options=settings, seed=100 + start))
    return searches


def measure(options: Options) -> dict[str, Any]:
    """Measure one bundle."""
    setting = load_setting(options, steps=options.steps)
    exact = FoldedEmbedder(setting.embedder)
    provide = bytes_provider(setting.pixels)
    gallery = Gallery(setting.gallery, setting.labels)
    rows = sample_queries(len(setting.labels), options.images, seed=SEED)
    base = RobustnessOptions(steps=options.steps, seed_check=0, sanity_images=0, strong_images=options.images)
    began = time.perf_counter()
    card = measure_robustness(exact, provide, setting.gallery, setting.labels, rows, options=base, seed=SEED, batch=64)
    both = time.perf_counter() - began
    strong = card.strong
    assert strong is not None
    print(f"{options.bundle.name}: ERS {card.ers:.2f}, strong {strong.ers:.2f}", flush=True)
    attacks = base.attacks()
    figures = figures_of(attacks)
    searches = exhaustive_searches(options, base)
    table = card.per_image
    begun = PerImage(
        rows=table.rows,
        labels=table.labels,
        columns={**table.columns, **{key: table.columns[f"{key} strong"] for key in figures}},
    )
    began, seen = time.perf_counter(), -1

    def show(number: int, _: object) -> None:
        nonlocal seen
        if number != seen:
            seen = number
            print(f"{time.perf_counter() - began:.0f} s: {searches[number].name}", flush=True)

    victims = victims_in(gallery, rows)
    found = search_block(
        exact,
        exact,
        provide(rows),
        victims,
        gallery,
        attacks,
        begun,
        searches,
        on_step=show,
        cancel=lambda: False,
    )
    lowest = _ers(found["values"], list(figures), figures)
    return {
        "images": len(rows),
        "gallery": list(setting.gallery.shape),
        "ers": round(card.ers, 2),
        "strong": {**asdict(strong), "ers": round(strong.ers, 2)},
        "protocol_gradients_per_image": round((card.passes / len(rows)) - strong.gradients_per_image, 1),
        "protocol_seconds": round(both - strong.seconds, 1),
        "exhaustive": {
            "ers": round(lowest, 2),
            "remaining": round(strong.ers - lowest, 2),
            "gradients_per_image": round(float(found["passes"].sum()) / len(rows), 1),
            "seconds": round(time.perf_counter() - began, 1),
            "values": {key: float(found["values"][:, i].mean()) for i, key in enumerate(figures)},
            "found": {
                search.name: count
                for i, search in enumerate(searches)
                if (count := int((found["found by"] == i + 2).sum()))
            },
        },
        "recall_at_1": card.recall_at_1,
        "worst_case_recall": card.worst_case_recall,
    }


def _ers(values: np.ndarray, keys: list[str], figures: Mapping[str, Figure]) -> float:
    columns = [figures[key].score(torch.from_numpy(values[:, keys.index(key)])).mean().item() for key in ERS_KEYS]
    return sum(columns) / len(columns)


def main() -> None:
    """Measure a bundle and add it to the results."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    options.write_bundle(
        "strong_score",
        measure(options),
        what="the strong ERS against an exhaustive search, by bundle",
        options={
            "steps": options.steps,
            "long_steps": options.long_steps,
            "long_restarts": options.long_restarts,
            "long_targets": options.long_targets,
        },
    )


if __name__ == "__main__":
    main()
