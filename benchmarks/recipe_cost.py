"""How long does the robust model of one recipe train against that of another?

    python benchmarks/recipe_cost.py caltech101-scratch caltech101-paper --data-root DIR
    python benchmarks/recipe_cost.py demo demo-paper --tiny    # a try, in a minute

Updates of each part of both trainings (the warm-up's benign and perturbed part, the triplets) are timed in turns, in
one run and on the recipes' own images; a training takes the sum of updates × mean time. How many steps a triplet takes
to its destination depends on the weights; so triplets of both recipes are timed half with the trained benign model of
the first recipe and half with its robust one, between which training goes. The result goes to
benchmarks/results/recipe_cost_RECIPE.json, RECIPE being the first.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from torch import Tensor

from benchmarks.command import ROOT, BenchmarkOptions, environment, parse_options
from hardrank.models.bundle import load_embedder
from hardrank.models.embedder import Embedder, build_embedder
from hardrank.models.progress import StageProgress
from hardrank.trainer.config import Config, Schedule
from hardrank.trainer.job_steps import JobImages, read_images, triplet_stage, warmup_stage
from hardrank.trainer.recipe import load_recipe
from hardrank.trainer.runtime.launch import Launch, make_fabric
from hardrank.trainer.runtime.processes import SINGLE_PROCESS
from hardrank.trainer.training.loop import LoopOptions, run_stage
from hardrank.trainer.training.stage import StepContext, StepLoss, TrainingStage
from hardrank.trainer.training.stages import CosineClassifier


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"rounds": 1, "updates": 1}

    recipes: Annotated[tuple[str, str], tyro.conf.Positional] = ("caltech101-scratch", "caltech101-paper")
    """The two recipes."""
    data_root: Path | None = None
    """The images, where they are not at the recipe's place."""
    zoo: Path = ROOT / "models" / "zoo"
    """Where the two bundles of the first recipe are."""
    rounds: int = 5
    """Turns of each part."""
    updates: int = 6
    """Updates that are timed in a turn."""


@dataclass
class Part:
    """Updates of a stage from `begin` to before `end`, of which a few are timed at a time."""

    stage: TrainingStage
    extra: CosineClassifier | None
    averaging: float
    begin: int
    end: int
    iterations: int
    """Updates of one turn; the first is not counted, for it allocates."""

    def __post_init__(self) -> None:
        self.name = self.stage.name
        self.weight_perturbation = self.stage.weight_perturbation
        self.moments: list[float] = []

    def batches(self, start: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the stage; an update lasts from one being asked for to the next."""
        for batch in self.stage.batches(self.begin + start, rank, world_size):
            yield batch
            self.moments.append(time.perf_counter())

    def loss(self, images: Tensor, labels: Tensor, context: StepContext) -> StepLoss | None:
        """The stage's loss as of the part's first update on."""
        shifted = replace(context, state=copy.copy(context.state))
        shifted.state.step += self.begin
        return self.stage.loss(images, labels, shifted)


class Unlogged:
    """No lines are kept."""

    def resume(self, step: int) -> None:
        """Nothing is there."""

    def write(self, step: int, measures: Mapping[str, float]) -> None:
        """Nothing is kept."""


def parts(config: Config, images: JobImages, updates: int) -> dict[str, Part]:
    """The training of the robust model, by what an update does."""
    options = config.robust
    warmup = warmup_stage(config, images, options)
    triplets = triplet_stage(images, "robust", options)
    middle = round(warmup.options.benign_share * warmup.iterations) if options.warmup_epsilon else warmup.iterations
    found = {
        "benign warm-up": Part(warmup, warmup.classifier, 0.0, 0, middle, updates),
        "perturbed warm-up": Part(warmup, warmup.classifier, 0.0, middle, warmup.iterations, updates),
        "triplets": Part(triplets, None, options.averaging, 0, triplets.iterations, updates),
    }
    return {name: part for name, part in found.items() if part.end > part.begin}


def take_turn(part: Part, embedder: Embedder) -> list[float]:
    """Seconds of each update of one turn but its first."""
    options = LoopOptions(
        learning_rate=1e-4,
        weight_decay=4e-4,
        schedule=Schedule.CONSTANT,
        averaging=part.averaging,
        freeze_batch_norm=part.extra is None,
    )
    part.moments.clear()
    with tempfile.TemporaryDirectory() as folder:
        run_stage(
            part,
            embedder,
            part.extra,
            fabric=make_fabric(Launch(device="cpu")),
            options=options,
            checkpoint=Path(folder) / "part.ckpt",
            log=Unlogged(),
            report=_silent,
        )
    return [later - earlier for earlier, later in zip(part.moments, part.moments[1:], strict=False)]


def _silent(progress: StageProgress) -> None:
    """The turns are short."""


def main() -> None:
    """Time both and write the result."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    configs = {name: load_recipe(name) for name in options.recipes}
    if options.data_root:
        configs = {
            name: replace(config, data=replace(config.data, root=options.data_root)) for name, config in configs.items()
        }
    one, other = options.recipes
    bundles = [options.zoo / f"{one}-{kind}" for kind in ("benign", "robust")]
    make_fabric(Launch(device="cpu"))  # for its settings of threads and memory
    plans = {
        name: parts(config, read_images(config, SINGLE_PROCESS, _silent), options.updates + 2)
        for name, config in configs.items()
    }
    seconds: dict[str, dict[str, list[float]]] = {name: {what: [] for what in plan} for name, plan in plans.items()}
    for _ in range(options.rounds):
        for name, plan in plans.items():
            torch.manual_seed(0)
            for what, part in plan.items():
                if part.extra:
                    seconds[name][what] += take_turn(part, build_embedder(configs[name].architecture))
                else:
                    for bundle in bundles:
                        seconds[name][what] += take_turn(part, load_embedder(bundle))
    found = {
        name: {
            what: {
                "updates": part.end - part.begin,
                "seconds_per_update": round(statistics.mean(seconds[name][what]), 4),
            }
            for what, part in plan.items()
        }
        for name, plan in plans.items()
    }
    totals = {
        name: sum(part["updates"] * part["seconds_per_update"] for part in plan.values())
        for name, plan in found.items()
    }
    result: dict[str, Any] = {
        "command": f"python benchmarks/recipe_cost.py {one} {other}"
        f" --rounds {options.rounds} --updates {options.updates}",
        "what": "training of the robust model: updates × mean seconds of an update, parts timed in turns",
        "parts": found,
        "seconds": {name: round(value, 1) for name, value in totals.items()},
        "ratio": round(totals[one] / totals[other], 3),
        "triplets_timed_with": [bundle.name for bundle in bundles],
        "rounds": options.rounds,
        **environment(),
    }
    options.write(f"recipe_cost_{one}", result)


if __name__ == "__main__":
    main()
