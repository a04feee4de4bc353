"""How well do the features of an untrained EfficientNet-Lite0 retrieve unseen classes?

    python benchmarks/pretrained_start.py --data-root DIR
    python benchmarks/pretrained_start.py --tiny    # the drawn images of the demo

Recall@1 of the pretrained features, before any training on the data set, on every second image of the unseen classes,
at several image sizes. The shorter side is resized and the center cut out; mean, standard deviation and interpolation
are those of the weights. The result goes to benchmarks/results/pretrained_start.json.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.command import BenchmarkOptions, environment, parse_options
from hardrank.models.embedder import Architecture, build_embedder
from hardrank.models.network_input import network_input
from hardrank.models.preprocessing import Fit, Preprocessing, to_unit
from hardrank.trainer.data import load_dataset
from hardrank.trainer.data.dataset import Split
from hardrank.trainer.data.store import ImageStore
from hardrank.trainer.metric.distances import recall_at_1
from hardrank.trainer.recipe import load_recipe


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"recipe": "demo", "sizes": (64,), "every": 8}

    recipe: str = "caltech101"
    """The recipe whose images are used."""
    data_root: Path | None = None
    """Folder of the images; by default that of the recipe."""
    backbone: str = "timm/efficientnet_lite0"
    """The network."""
    sizes: tuple[int, ...] = (64, 96, 128)
    """Sides of the input, pixels."""
    every: int = 2
    """Take every n-th image."""
    batch: int = 64
    """Images embedded at a time."""


@torch.no_grad()
def measure(options: Options, split: Split, size: int) -> dict[str, Any]:
    """Measure Recall@1 at one size."""
    began = time.perf_counter()
    architecture = Architecture(backbone=options.backbone, dimension=1, image_size=size)
    embedder = build_embedder(architecture, imagenet=True).eval()
    pre = Preprocessing(
        resize=size, crop=size, fit=Fit.SHORTEST, interpolation=network_input(options.backbone).interpolation
    )
    store = ImageStore(split, pre)
    rows = np.arange(len(split))
    batches = [rows[begin : begin + options.batch] for begin in range(0, len(rows), options.batch)]
    features = torch.cat([embedder.features(torch.from_numpy(to_unit(store.center(part, size)))) for part in batches])
    unit, labels, own = F.normalize(features, dim=1), torch.from_numpy(split.labels), torch.arange(len(rows))
    source = embedder.weights_source
    assert source is not None
    return {
        "recall_at_1": round(float(recall_at_1(unit, unit, labels, own, labels).float().mean()), 4),
        "queries": len(rows),
        "seconds": round(time.perf_counter() - began, 1),
        "preprocessing": pre.to_dict(),
        "mean": embedder.architecture.mean,
        "std": embedder.architecture.std,
        "weights": {"origin": str(source.origin), "name": source.name, "sha256": source.sha256},
    }


def main() -> None:
    """Run the benchmark."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    data = load_recipe(options.recipe).data
    split = load_dataset(data if options.data_root is None else replace(data, root=options.data_root)).test
    split = Split(split.paths[:: options.every], split.labels[:: options.every], split.classes)
    options.write(
        "pretrained_start",
        {
            "command": "python benchmarks/pretrained_start.py",
            "what": "Recall@1 of the features of a pretrained network, before training, on unseen classes",
            "backbone": options.backbone,
            "recipe": options.recipe,
            "classes": len(split.classes),
            "sizes": {str(size): measure(options, split, size) for size in options.sizes},
            **environment(),
        },
    )


if __name__ == "__main__":
    main()
