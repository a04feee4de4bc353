"""What does the robustness scorecard cost, against the passes it contains and against the protocol written plainly?

    python benchmarks/attacks.py --bundle models/zoo/caltech101-robust --data-root DIR
    python benchmarks/attacks.py --bundle models/zoo/demo-robust --tiny    # a try, in a minute
    python benchmarks/attacks.py --authors-code ROBRANK                    # with the authors' own code too

In turns, block of queries by block of queries: the scorecard with bf16 network passes (the default
where the processor gains from them; where it does not, on a few images of each block, for the difference it makes to
ERS), the scorecard in float32 (`--precision float32` of the trainer), bare forward + input-gradient passes of either
network, and the plain protocol of `tests/reference/attacks.py` (float32, parameter gradients, loops over images) on a
few images of each block with the same targets. With `--authors-code`, a checkout of
https://github.com/cdluminate/robrank, the attacks of the paper's authors run on the same few images, with targets of
their own draws. A last part holds a gallery of 60 000 × 512 and measures the memory
that the attacks take beyond it. The result goes to benchmarks/results/attacks.json.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.authors_code import ATTACKS, FIGURES, AuthorsCode, AuthorsModel, authors_attack, load_authors_code
from benchmarks.bundles import BundleOptions, bundle_config, load_test_images
from benchmarks.command import ROOT, environment, parse_options
from benchmarks.turns import OwnProcess, apart
from hardrank.models.bundle import load_embedder
from hardrank.models.embedder import Embed, Embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.attacks.attack import Gallery, victims_in
from hardrank.trainer.attacks.pgd import PGDOptions, memory_format
from hardrank.trainer.evaluation.robustness import RobustnessOptions, bytes_provider, measure_robustness
from hardrank.trainer.evaluation.scorecard import ERS_KEYS, ers
from hardrank.trainer.runtime.environment import gains_from_bf16
from hardrank.trainer.runtime.malloc import tune_allocator
from tests.reference.attacks import Scene, plain_attack

SEED = 0
BATCH = 125


@dataclass(frozen=True, kw_only=True)
class Options(BundleOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"queries": 4, "few": 2, "steps": 2, "bare_passes": 8, "scale": False}

    bundle: Path = ROOT / "models/zoo/caltech101-robust"
    """The trained model."""
    queries: int = 500
    """Images attacked."""
    steps: int = 32
    """PGD steps."""
    few: int = 8
    """Images of each block for what is slow."""
    bare_passes: int = 20 * BATCH
    """Images in a measurement of the bare passes."""
    scale: bool = True
    """Whether the memory of attacks on a large gallery is measured too."""
    threads: int = 1
    """Threads of every contender."""
    authors_code: Path | None = None
    """A checkout of the authors' code, to time it too."""


@dataclass(frozen=True)
class Setting:
    """What all contenders share."""

    embedder: Embedder
    pixels: Tensor
    """uint8 (N,3,H,W)."""
    labels: Tensor
    gallery: Tensor
    """(N,D), in float32."""
    options: RobustnessOptions


Timing = tuple[float, int, dict[str, np.ndarray]]
"""Seconds, passes, and the results of each image."""


@dataclass
class Tally:
    """Time and results of a contender."""

    seconds: float = 0.0
    passes: int = 0
    images: int = 0
    blocks: list[dict[str, np.ndarray]] = field(default_factory=list)
    """The ten results of every image, by block; blocks are of one size."""

    def add(self, seconds: float, passes: int, results: dict[str, np.ndarray] | None = None) -> None:
        """Count a run: its time in seconds, its passes, its results by image."""
        self.seconds += seconds
        self.passes += passes
        if results is not None:
            self.blocks.append(results)
            self.images += len(results[ERS_KEYS[0]])

    @property
    def per_pass(self) -> float:
        """Seconds for an image to go forward and back."""
        return self.seconds / self.passes

    @property
    def per_image(self) -> float:
        """Seconds for all attacks on an image."""
        return self.seconds / self.images

    def mean(self, first: int | None = None) -> dict[str, float]:
        """The ten results, averaged over the first images of each block."""
        return {key: float(np.concatenate([block[key][:first] for block in self.blocks]).mean()) for key in ERS_KEYS}


def timed_scorecard(setting: Setting, embed: Embed, judge: Embed, queries: list[int]) -> Timing:
    """Time the whole scorecard of some queries."""
    began = time.perf_counter()
    card = measure_robustness(
        embed,
        bytes_provider(setting.pixels),
        setting.gallery,
        setting.labels,
        torch.tensor(queries),
        options=setting.options,
        seed=SEED,
        batch=BATCH,
        judge=judge,
    )
    return time.perf_counter() - began, card.passes, {key: card.per_image.columns[key] for key in ERS_KEYS}


def timed_passes(setting: Setting, embed: Embed, queries: list[int], count: int) -> tuple[float, int]:
    """Seconds of bare forward + input-gradient passes of at least `count` images, in the scorecard's batches."""
    images = bytes_provider(setting.pixels)(torch.tensor(queries[:BATCH]))
    images = images.contiguous(memory_format=memory_format(images.dtype))
    pull = torch.randn(len(images), setting.gallery.shape[1])
    done, began = 0, time.perf_counter()
    while done < count:
        x = images.clone().requires_grad_(True)
        torch.autograd.grad(embed(x), x, pull)
        done += len(images)
    return time.perf_counter() - began, done


def timed_plain(setting: Setting, queries: list[int]) -> Timing:
    """Time the plain protocol, with the targets of the fast one."""
    options, gallery, rows = setting.options, Gallery(setting.gallery, setting.labels), torch.tensor(queries)
    victims = victims_in(gallery, rows)
    images = bytes_provider(setting.pixels)(rows)
    found: dict[str, np.ndarray] = {}
    seconds = 0.0
    for name, attack in options.attacks().items():
        targets = attack.draw(victims, gallery, seed=SEED).tolist()
        began = time.perf_counter()
        scenes = [
            Scene(setting.gallery, setting.labels, row, drawn) for row, drawn in zip(queries, targets, strict=True)
        ]
        _, figures = plain_attack(
            name,
            setting.embedder,
            images,
            scenes,
            epsilon=options.epsilon,
            alpha=options.alpha,
            steps=options.steps,
        )
        seconds += time.perf_counter() - began
        for figure, column in zip(attack.figures, np.asarray(figures).T, strict=True):
            found[figure.key] = column
    return seconds, len(queries) * options.steps * len(options.attacks()), found


def timed_authors(setting: Setting, code: AuthorsCode, queries: list[int]) -> Timing:
    """Time the authors' code; its mean results are repeated for each image."""
    options = setting.options
    attack = PGDOptions(epsilon=options.epsilon, alpha=options.alpha, steps=options.steps)
    model = AuthorsModel(setting.embedder, code, attack)
    images = bytes_provider(setting.pixels)(torch.tensor(queries))
    began = time.perf_counter()
    results = {
        name: authors_attack(
            code, model, name, images, setting.labels[queries], (setting.gallery, setting.labels), attack
        )
        for name in ATTACKS
    }
    seconds = time.perf_counter() - began
    found = {
        key: np.full(len(queries), factor * results[name][figure]) for key, (name, figure, factor) in FIGURES.items()
    }
    return seconds, len(queries) * options.steps * len(ATTACKS), found


def load_setting(options: BundleOptions, *, steps: int) -> Setting:
    """The bundle's network, and its test images."""
    config = bundle_config(options.bundle, options.data_root)
    pixels, labels = load_test_images(config.data, config.preprocessing)
    embedder = load_embedder(options.bundle).eval()
    exact = FoldedEmbedder(embedder)
    with torch.no_grad():
        parts = [exact(bytes_provider(pixels)(rows)) for rows in torch.arange(len(pixels)).split(BATCH)]
    return Setting(
        embedder=embedder,
        pixels=pixels,
        labels=labels,
        gallery=torch.cat(parts),
        options=RobustnessOptions(steps=steps, seed_check=0),
    )


def slow_forms(options: Options) -> dict[str, Callable[[list[int]], Timing]]:
    """Return the plain protocol and the authors' code."""
    code = load_authors_code(options.authors_code) if options.authors_code else None
    torch.set_num_threads(options.threads)  # the authors' code sets the number of OpenMP threads when it is imported
    setting = load_setting(options, steps=options.steps)
    forms: dict[str, Callable[[list[int]], Timing]] = {"plain": partial(timed_plain, setting)}
    if code is not None:
        forms["authors"] = partial(timed_authors, setting, code)
    return forms


def fast_forms(options: Options) -> dict[str, Callable[..., Any]]:
    """Return the scorecard and the bare passes, in both precisions, with memory as audits and training have it."""
    tune_allocator()
    torch.set_num_threads(options.threads)
    setting = load_setting(options, steps=options.steps)
    exact = FoldedEmbedder(setting.embedder)
    forms: dict[str, Callable[..., Any]] = {}
    for name, network in (("float32", exact), ("bf16", FoldedEmbedder(setting.embedder, dtype=torch.bfloat16))):
        forms[name] = partial(timed_scorecard, setting, network, exact)
        forms[f"bare {name}"] = partial(timed_passes, setting, network)
    return forms


def compare(options: Options, *, images: int, low: bool, report: Callable[[str], None]) -> dict[str, Any]:
    """Run all contenders on blocks of queries, in turns; the slow ones run on the first `few` of each block."""
    chosen = np.random.default_rng(SEED).permutation(images)[: options.queries].tolist()
    counts = {"bf16": BATCH if low else options.few, "float32": BATCH}
    slow_names = ["plain", *(["authors"] if options.authors_code else [])]
    tallies = {name: Tally() for name in ("bf16", "float32", "bare bf16", "bare float32", *slow_names)}
    blocks = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
    with OwnProcess(slow_forms, options) as slow, OwnProcess(fast_forms, options) as quick:
        for name, count in counts.items():
            quick.run(f"bare {name}", chosen, min(count, options.bare_passes))  # warms up
        for index, block in enumerate(blocks):
            for name in slow_names:
                tallies[name].add(*slow.run(name, block[: options.few]))
                report(f"block {index + 1}/{len(blocks)}: {name}, {options.few} images")
            for name, count in counts.items():
                bare = options.bare_passes if count == BATCH else min(BATCH, options.bare_passes)
                for run in (f"bare {name}", name, f"bare {name}"):
                    more = () if run == name else (bare,)
                    tallies[run].add(*quick.run(run, block[:count], *more))
                report(f"block {index + 1}/{len(blocks)}: {name}, {min(count, len(block))} images")
    return summary(tallies, few=options.few, slow=slow_names)


def summary(tallies: dict[str, Tally], *, few: int, slow: list[str]) -> dict[str, Any]:
    """Ratios and results of all contenders."""
    scored = {name: tallies[name] for name in ("bf16", "float32", *slow)}
    alike = {name: ers(tally.mean(few)) for name, tally in scored.items()}
    return {
        "images": {name: tally.images for name, tally in scored.items()},
        "seconds": {name: round(tally.seconds, 1) for name, tally in scored.items()},
        "passes": {name: tally.passes for name, tally in scored.items()},
        "passes_per_second": {name: round(1 / tally.per_pass, 1) for name, tally in tallies.items()},
        "cost_over_bare_passes": {
            name: round(tallies[name].per_pass / tallies[f"bare {name}"].per_pass, 3) for name in ("bf16", "float32")
        },
        **{
            f"{other}_seconds_over": {
                name: round(tallies[other].per_image / tallies[name].per_image, 2) for name in ("bf16", "float32")
            }
            for other in slow
        },
        "ers": {name: round(ers(scored[name].mean()), 3) for name in ("bf16", "float32")},
        "ers_of_the_same_images": {name: round(value, 3) for name, value in alike.items()},
        "bf16_against_float32": _difference(scored["bf16"], scored["float32"]),
    }


def _difference(one: Tally, other: Tally) -> dict[str, Any]:
    """What bf16 makes of ERS, on the images that both had."""
    count = min(len(tally.blocks[0][ERS_KEYS[0]]) for tally in (one, other))
    figures = {"bf16": one.mean(count), "float32": other.mean(count)}
    return {
        "images": count * len(one.blocks),
        "ers_difference": round(ers(figures["bf16"]) - ers(figures["float32"]), 3),
        "figures": figures,
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_scale(size: int, queries: int) -> tuple[float, float]:
    """Attack a gallery of `size` × 512 with every attack; returns this process's peak GiB before and after."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3 * 64, 512, generator=generator)
    images = torch.randint(256, (size, 3, 8, 8), generator=generator, dtype=torch.uint8)

    def embed(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize((x - 0.5).flatten(1) @ weight, dim=1)

    provide = bytes_provider(images)
    gallery = torch.empty(size, 512)
    for begin in range(0, size, 4096):
        rows = torch.arange(begin, min(begin + 4096, size))
        gallery[rows] = embed(provide(rows))
    before = _peak()
    measure_robustness(
        embed,
        provide,
        gallery,
        torch.arange(size) % 1000,
        torch.arange(queries),
        options=RobustnessOptions(steps=2, seed_check=0),
    )
    return before, _peak()


def scale(size: int = 60_000, queries: int = 256) -> dict[str, Any]:
    """Peak memory of the attacks on a large gallery."""
    before, after = apart(measure_scale, size, queries)
    return {
        "gallery": [size, 512],
        "queries": queries,
        "peak_GiB_with_embeddings": round(before, 2),
        "GiB_beyond": round(after - before, 2),
    }


def main() -> None:
    """Time all contenders and write the result."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    torch.set_num_threads(options.threads)
    setting = load_setting(options, steps=options.steps)
    began = time.perf_counter()
    low = gains_from_bf16(torch.device("cpu"))
    compared = compare(options, images=len(setting.pixels), low=low, report=lambda line: print(line, flush=True))
    result = {
        "command": f"python benchmarks/attacks.py --queries {options.queries} --few {options.few}"
        + (" --authors-code ROBRANK" if options.authors_code else ""),
        "what": f"the robustness scorecard: {', '.join(setting.options.attacks())}, {options.steps} steps",
        "bundle": options.bundle.name,
        "gallery": list(setting.gallery.shape),
        "seed": SEED,
        "threads": options.threads,
        "default_here": "bf16" if low else "float32",
        **compared,
        **({"scale": scale()} if options.scale else {}),
        "seconds_of_this_run": round(time.perf_counter() - began),
        **environment(low_precision=low),
    }
    options.write("attacks", result)


if __name__ == "__main__":
    main()
