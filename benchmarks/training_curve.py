"""What does the time of training buy? Recall@1 and ERS of the robust model while it trains, at several budgets.

    nice python benchmarks/training_curve.py caltech101 --data-root DIR --size 96
    python benchmarks/training_curve.py demo --tiny    # a try, in a minute

The robust model of a recipe is trained as by `hardrank train`, and measured several times during its warm-up and its
triplets: Recall@1 on all test images, and the ERS of a few at each budget. An interrupted command continues where it
stopped. The learning rate falls over the whole training, so a training that is planned shorter reaches more in the same
time. Seconds are those of training alone. The result goes to benchmarks/results/training_curve_NAME.json, and its
plot to docs/figures/training_curve_NAME.svg, NAME being the recipe and the size.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import tyro
from matplotlib.figure import Figure
from rich.console import Console
from safetensors.torch import load_file, save

from benchmarks.command import ROOT, BenchmarkOptions, parse_options
from hardrank.models.embedder import Embedder
from hardrank.models.files import atomic_path, write_bytes, write_json
from hardrank.models.progress import ConsoleProgress, OnProgress
from hardrank.trainer.config import Config
from hardrank.trainer.evaluation.robustness import RobustnessOptions
from hardrank.trainer.job_steps import Job, make_start, read_images, train_stages, triplet_stage, warmup_stage
from hardrank.trainer.measurement import evaluate_embedder
from hardrank.trainer.recipe import load_recipe
from hardrank.trainer.recipe_variants import at_size
from hardrank.trainer.runtime.environment import hardware, versions
from hardrank.trainer.runtime.launch import Launch, make_fabric
from hardrank.trainer.runtime.processes import SINGLE_PROCESS
from hardrank.trainer.runtime.run_folder import Run
from hardrank.trainer.training.stage import PeriodicCallback

_STAGE: Final = "robust"


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {
        "recipe": "demo",
        "epsilons": (8,),
        "updates": (2, 2),
        "points": 1,
        "images": 4,
        "steps": 2,
    }

    recipe: Annotated[str, tyro.conf.Positional] = "caltech101"
    """The recipe, by name."""
    data_root: Path | None = None
    """Folder of the images; by default that of the recipe."""
    size: int | None = None
    """Side of the network's input, pixels; by default that of the recipe."""
    epsilons: tuple[int, ...] = (2, 4, 8)
    """Budgets of the attacks, in 1/255."""
    points: int = 4
    """Measurements in the warm-up and in the triplets, each."""
    updates: tuple[int, int] | None = None
    """Updates of both; by default those of the recipe."""
    images: int = 32
    """Test images that are attacked."""
    steps: int = 16
    """Steps of the attacks."""
    runs: Path = ROOT / "runs"
    """Where checkpoints and measurements are kept."""

    @property
    def name(self) -> str:
        """Name of the result."""
        return f"training_curve_{self.recipe}" + (f"_{self.size}" if self.size else "")


def configure(options: Options) -> Config:
    """Return the recipe with the size and the number of updates of `options`."""
    config = load_recipe(options.recipe)
    if options.data_root is not None:
        config = replace(config, data=replace(config.data, root=options.data_root))
    if options.size is not None:
        config = at_size(config, options.size)
    if options.updates is not None:
        first, second = options.updates
        config = replace(
            config,
            warmup=replace(config.warmup, updates=first),
            robust=replace(config.robust, updates=second),
        )
    return config


@dataclass(kw_only=True)
class Curve:
    """Keeps the weights of a model during its training, and measures them afterwards."""

    folder: Path
    points: int
    began: float = field(default_factory=time.perf_counter)
    """When the training since the last point began."""

    def during(self, stage: str, iterations: int) -> PeriodicCallback:
        """Return the callback for a stage."""

        def call(step: int, embedder: Embedder) -> None:
            if step:
                self._keep(stage, step, embedder)

        return PeriodicCallback(every=max(1, round(iterations / self.points)), call=call)

    def _keep(self, stage: str, step: int, embedder: Embedder) -> None:
        now, known = time.perf_counter(), self._read()
        total = round(now - self.began + (known[-1]["seconds"] if known else 0), 1)
        file = self.folder / f"{len(known):03d}.json"
        weights = {name: value.contiguous() for name, value in embedder.state_dict().items()}
        write_bytes(file.with_suffix(".safetensors"), save(weights))
        write_json(file, {"stage": stage, "step": step, "seconds": total})
        self.began = now

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]

    def measured(self, job: Job, embedder: Embedder, options: Options) -> list[dict[str, Any]]:
        """Return all points in order, measured by means of `embedder`; measurements are kept."""
        for file in sorted(self.folder.glob("*.json")):
            point = json.loads(file.read_text(encoding="utf-8"))
            if "ers" not in point:
                embedder.load_state_dict(load_file(file.with_suffix(".safetensors")))
                write_json(file, {**point, **measure(job, embedder, options)})
        return self._read()


def measure(job: Job, embedder: Embedder, options: Options) -> dict[str, Any]:
    """Return Recall@1, mean cosine, and ERS by budget."""
    ers: dict[str, float] = {}
    for epsilon in options.epsilons:
        measured = evaluate_embedder(
            job,
            embedder,
            attacked=options.images,
            options=RobustnessOptions(
                epsilon=epsilon / 255,
                alpha=epsilon * 3 / 8 / 255,
                steps=options.steps,
                seed_check=0,
                sanity_images=0,
                strong_images=0,
            ),
            nmi=False,
        )
        ers[str(epsilon)] = round(measured.robustness.ers, 2)
    metrics = measured.metrics
    return {"recall_at_1": round(metrics.recall_at_1, 4), "mean_cosine": round(metrics.mean_cosine, 4), "ers": ers}


def train(options: Options, report: OnProgress) -> dict[str, Any]:
    """Train and measure, and return the result."""
    config = configure(options)
    folder = options.runs / options.name
    folder.mkdir(parents=True, exist_ok=True)
    launch = Launch()
    fabric = make_fabric(launch)
    job = Job(
        config=config,
        run=Run(folder=folder, run_id=options.name, command="", created=""),
        fabric=fabric,
        low_precision=launch.precision.is_bf16(fabric.device),
        checkpoint_every=launch.checkpoint_every,
        images=read_images(config, SINGLE_PROCESS, report),
        report=report,
    )
    curve = Curve(folder=folder / "curve", points=options.points)
    iterations = warmup_stage(config, job.images, config.robust).iterations
    start = make_start(job, config.robust, periodic=curve.during("warm-up", iterations))
    curve.began = time.perf_counter()
    iterations = triplet_stage(job.images, _STAGE, config.robust).iterations
    trained = train_stages(job, start, _STAGE, periodic=curve.during("triplets", iterations))
    return {
        "command": f"python benchmarks/training_curve.py {options.recipe}"
        + (f" --size {options.size}" if options.size else ""),
        "seed": config.seed,
        "attacked": options.images,
        "steps": options.steps,
        "defense": config.robust.defense,
        "points": curve.measured(job, trained, options),
        "hardware": hardware(fabric.device, low_precision=job.low_precision),
        "versions": versions(),
    }


def draw(points: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw Recall@1 and the ERS of each budget over the minutes of training."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    minutes = [point["seconds"] / 60 for point in points]
    axes.plot(minutes, [100 * point["recall_at_1"] for point in points], "o-", color="#4e79a7", label="Recall@1, %")
    for epsilon, color in zip(points[0]["ers"], ("#59a14f", "#f28e2b", "#e15759"), strict=False):
        ers = [point["ers"][epsilon] for point in points]
        axes.plot(minutes, ers, "s-", color=color, label=f"ERS at ε = {epsilon}/255")
    warmed_up = [minute for minute, point in zip(minutes, points, strict=True) if point["stage"] == "warm-up"]
    axes.axvspan(warmed_up[-1], minutes[-1], color="#0000000d", label="triplets")
    axes.set(xlabel="minutes of training", ylim=(0, 100))
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as unfinished:
        figure.savefig(unfinished, format="svg", metadata={"Date": None})


def main() -> None:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    with ConsoleProgress(Console(stderr=True)) as report:
        result = train(options, report)
    options.write(options.name, result)
    if not options.tiny:
        draw(result["points"], ROOT / "docs" / "figures" / f"{options.name}.svg")


if __name__ == "__main__":
    main()
