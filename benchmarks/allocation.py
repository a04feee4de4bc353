"""How much faster are passes on a CPU when freed memory stays with the process, in huge pages?

    python benchmarks/allocation.py           # about 3 minutes
    python benchmarks/allocation.py --tiny    # a try

Forward and back to the pixels through `small-resnet` at 64 px, batches of 128, as attacks do it. Processes with and
without `tune_allocator` take turns. The result goes to benchmarks/results/allocation.json.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from benchmarks.command import BenchmarkOptions, environment, parse_options
from benchmarks.turns import apart
from hardrank.models.embedder import Architecture, build_embedder
from hardrank.models.folded import FoldedEmbedder
from hardrank.trainer.runtime.malloc import tune_allocator

BATCH, PASSES = 128, 8


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"rounds": 1}

    rounds: int = 7
    """Processes of each kind; medians are reported."""


def passes_per_second(*, keep: bool) -> float:
    """Images a second that go forward and back, in this process."""
    if keep and not tune_allocator():
        raise SystemExit("this C library has no mallopt: there is nothing to compare")
    torch.manual_seed(0)
    embedder = FoldedEmbedder(build_embedder(Architecture(backbone="small-resnet", dimension=512, image_size=64)))
    images = torch.rand(BATCH, 3, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    began = 0.0
    for done in range(PASSES + 2):
        if done == 2:  # the first ones allocate
            began = time.perf_counter()
        torch.autograd.grad(embedder(images)[:, 0].sum(), images)
    return BATCH * PASSES / (time.perf_counter() - began)


def main() -> None:
    """Measure and write."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    rates: dict[str, list[float]] = {"keep": [], "leave": []}
    for _ in range(options.rounds):
        for how, found in rates.items():
            found.append(apart(passes_per_second, keep=how == "keep"))  # what is set there cannot be taken back
    medians = {how: statistics.median(found) for how, found in rates.items()}
    result: dict[str, Any] = {
        "command": "python benchmarks/allocation.py",
        "what": f"forward and back to the pixels, small-resnet at 64 px, batches of {BATCH}, processes in turns",
        "rounds": options.rounds,
        "images_per_second": {how: round(value, 1) for how, value in medians.items()},
        "keep_over_leave": round(medians["keep"] / medians["leave"], 3),
        **environment(),
    }
    options.write("allocation", result)


if __name__ == "__main__":
    main()
