"""How well does the hint of suspicion tell attacked images from benign ones?

    python benchmarks/suspicion.py --benign models/zoo/demo-benign --robust models/zoo/demo-robust
    python benchmarks/suspicion.py --tiny    # a try, in a minute

The unseen classes of the bundles' data set are divided: most images are the gallery, the rest are queries that no
gallery holds, as uploads are. Both models' rankings of the gallery are calibrated as the server does it; then the same
queries are judged benign, attacked on the benign model, on the robust one, and on both at once (one perturbation, the
gradients of both). Attacked images are rounded to 8 bits and embedded by the served ONNX networks. For each attack: the
area under the ROC curve of the overlap (the chance that an attacked image agrees less than a benign one), the share
that each level is given to, and the same for other p and depths. The result goes to benchmarks/results/suspicion.json.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.bundles import bundle_config, load_test_images
from benchmarks.command import ROOT, BenchmarkOptions, environment, parse_options
from hardrank.models.bundle import load_embedder
from hardrank.models.embedder import Embed
from hardrank.models.folded import FoldedEmbedder
from hardrank.serving.agreement.calibration import (
    Calibration,
    CalibrationOptions,
    DisagreementLevel,
    calibrate,
    shared_overlap,
)
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import Match, NewItem
from hardrank.serving.store.manifest import IndexManifest
from hardrank.trainer.attacks import registry
from hardrank.trainer.attacks.attack import Gallery, Victims
from hardrank.trainer.attacks.runner import AttackOptions, run_attack
from hardrank.trainer.metric.distances import ABSENT


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"queries": 8, "steps": 2}

    benign: Path = ROOT / "models/zoo/demo-benign"
    """The one model."""
    robust: Path = ROOT / "models/zoo/demo-robust"
    """The other model."""
    data_root: Path | None = None
    """The images, where they have moved since training."""
    queries: int = 200
    """Images that are judged."""
    steps: int = 32
    """PGD steps."""


SEED: Final = 0
BATCH: Final = 100
ATTACKS: Final = ("ES", "TMA", "QA+", "GTM")
"""Each aims at its reported figure: GTM moves to the true nearest item of another class."""
OTHERS: Final = tuple((p, depth) for p in (0.8, 0.9, 0.95, 0.98) for depth in (10, 50, 100))

Vectors = npt.NDArray[np.float32]
Overlaps = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """A model: what is served, and what gives gradients."""

    engine: Engine
    network: Embed
    gallery: Vectors
    """(N,D), as the engine embeds them."""
    index: SearchIndex


@dataclass(frozen=True)
class Scene:
    """Two models over the same gallery, and the images to be judged."""

    sides: Mapping[str, Side]
    labels: Tensor
    """(N,), of the gallery."""
    queries: Tensor
    """(Q,3,H,W) in [0,1], not in the gallery."""
    query_labels: Tensor


@contextmanager
def scene_of(benign: Path, robust: Path, *, queries: int, data_root: Path | None = None) -> Iterator[Scene]:
    """Divide the test images into gallery and queries, and index the gallery with both models, for the block."""
    config = bundle_config(benign, data_root)
    stored, labels = load_test_images(config.data, config.preprocessing)
    pixels = stored.float() / 255
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(labels)))
    asked, kept = order[:queries], order[queries:]
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            bundle.name.rpartition("-")[2]: _side(bundle, Path(folder) / bundle.name, pixels[kept], labels[kept])
            for bundle in (benign, robust)
        }
        yield Scene(sides, labels[kept], pixels[asked], labels[asked])
        for side in sides.values():
            side.index.close()


def attacked(scene: Scene, models: tuple[str, ...], attack: str, *, steps: int) -> Tensor:
    """Attack all queries on the named models at once → (Q,3,H,W), rounded to 8 bits."""
    sides = [scene.sides[name] for name in models]

    def embed(images: Tensor) -> Tensor:
        parts: list[Tensor] = [side.network(images) for side in sides]
        return torch.cat(parts, dim=1).mul(len(sides) ** -0.5)

    together = np.concatenate([side.gallery for side in sides], axis=1) / len(sides) ** 0.5
    gallery = Gallery(torch.from_numpy(together.astype(np.float32)), scene.labels)
    parts = []
    for rows in torch.arange(len(scene.queries)).split(BATCH):
        images = scene.queries[rows]
        with torch.no_grad():
            victims = Victims(embed(images), scene.query_labels[rows], torch.full_like(rows, ABSENT), rows)
        aimed = registry.ATTACKS[attack].aim(registry.make_attack(attack))
        result = run_attack(aimed, embed, images, victims, gallery, AttackOptions(steps=steps), seed=SEED)
        parts.append(result.images)
    return torch.cat(parts).mul(255).round().div(255)


def rankings(scene: Scene, images: Tensor, depth: int) -> list[list[list[Match]]]:
    """What each model finds for each image."""
    return [
        side.index.search(_embed(side.engine, images), min(depth, side.index.size)) for side in scene.sides.values()
    ]


def overlaps(scene: Scene, found: list[list[list[Match]]], *, persistence: float, depth: int) -> Overlaps:
    """The overlap of the two models' rankings of each image (Q,)."""
    first, second = (side.index for side in scene.sides.values())
    return np.array(
        [
            shared_overlap(of_first[:depth], of_second[:depth], first, second, persistence=persistence)
            for of_first, of_second in zip(*found, strict=True)
        ]
    )


def area(attacked_ones: Overlaps, benign: Overlaps) -> float:
    """The chance that an attacked image has a smaller overlap than a benign one, equal ones counted half."""
    less = (attacked_ones[:, None] < benign).mean() + (attacked_ones[:, None] == benign).mean() / 2
    return float(less)


def judged(calibration: Calibration, values: Overlaps) -> dict[str, float]:
    """The mean overlap, and the share of images that are given each level or a worse one."""
    levels = [calibration.rate(value).level for value in values.tolist()]
    return {
        "mean_overlap": round(float(values.mean()), 4),
        "share_unusual_or_worse": sum(level is not DisagreementLevel.USUAL for level in levels) / len(levels),
        "share_suspicious": sum(level is DisagreementLevel.SUSPICIOUS for level in levels) / len(levels),
    }


def measure(scene: Scene, *, steps: int, attacks: tuple[str, ...] = ATTACKS) -> dict[str, Any]:
    """Judge the queries benign and attacked."""
    indexes = [side.index for side in scene.sides.values()]
    depths = sorted({depth for _, depth in OTHERS} | {CalibrationOptions().depth})
    began = time.perf_counter()
    calibration = calibrate(*indexes)
    seconds = time.perf_counter() - began
    options = calibration.options
    benign = rankings(scene, scene.queries, depths[-1])
    usual = overlaps(scene, benign, persistence=options.persistence, depth=calibration.depth)
    results: dict[str, Any] = {
        "seconds_to_calibrate": round(seconds, 2),
        "gallery_mean_overlap": round(float(calibration.overlaps.mean()), 4),
        "benign": judged(calibration, usual),
    }
    names = tuple(scene.sides)
    for models in ((names[0],), (names[1],), names):
        for attack in attacks:
            found = rankings(scene, attacked(scene, models, attack, steps=steps), depths[-1])
            values = overlaps(scene, found, persistence=options.persistence, depth=calibration.depth)
            name = f"{attack} on {' and '.join(models)}"
            results[name] = {
                "auc": round(area(values, usual), 4),
                **judged(calibration, values),
                "auc_by_p_and_depth": {
                    f"p={p} depth={depth}": round(
                        area(
                            overlaps(scene, found, persistence=p, depth=depth),
                            overlaps(scene, benign, persistence=p, depth=depth),
                        ),
                        4,
                    )
                    for p, depth in OTHERS
                },
            }
            print(f"{name}: AUC {results[name]['auc']:.3f}", flush=True)
    return results


def _side(bundle: Path, folder: Path, pixels: Tensor, labels: Tensor) -> Side:
    engine = Engine(bundle, device=Device.CPU)
    gallery = _embed(engine, pixels)
    index = SearchIndex.create(folder, manifest=IndexManifest.of(engine))
    index.add(
        [NewItem(id=f"image-{row}", vector=vector, label=str(int(labels[row]))) for row, vector in enumerate(gallery)]
    )
    return Side(engine, FoldedEmbedder(load_embedder(bundle)), gallery, index)


def _embed(engine: Engine, images: Tensor) -> Vectors:
    return np.concatenate([engine.embed(part.numpy()) for part in images.split(BATCH)])


def main() -> None:
    """Measure and write the result."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    with scene_of(options.benign, options.robust, queries=options.queries, data_root=options.data_root) as scene:
        used = CalibrationOptions()
        result = {
            "command": " ".join(["python benchmarks/suspicion.py", *sys.argv[1:]]),
            "what": "rank-biased overlap of two models' rankings of benign and attacked images, unseen classes",
            "bundles": [options.benign.name, options.robust.name],
            "gallery": len(scene.labels),
            "queries": options.queries,
            "epsilon": "8/255",
            "steps": options.steps,
            "seed": SEED,
            "persistence": used.persistence,
            "depth": used.depth,
            "false_alarm_rates": {"unusual": used.unusual, "suspicious": used.suspicious},
            **measure(scene, steps=options.steps),
            **environment(),
        }
    options.write("suspicion", result)


if __name__ == "__main__":
    main()
