"""How fast is an index built, against the network alone?

    python benchmarks/index_build.py
    python benchmarks/index_build.py --tiny    # a try, in a minute

ResNet-18 at 224 px, random weights; JPEG files of 300×200. Before, between and after the rounds, images decoded
beforehand are embedded with all threads on each batch and nothing else (the bare rate). A round builds an index of the
files: reading, hashing, decoding, thumbnails, embedding, commits to the disk. Its ratio is to the mean of the bare
rates before and after it, as the speed of a machine changes within minutes; the result is the median of the rounds. It
goes to benchmarks/results/index_build.json.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.command import BenchmarkOptions, environment, parse_options, timed
from benchmarks.serving_scene import write_bundle
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.ingest.image_list import list_images
from hardrank.serving.ingest.indexer import IngestOptions, add_images
from hardrank.serving.store.manifest import IndexManifest

TARGET: Final = 0.85
CLASSES: Final = 16


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """Options of this benchmark."""

    TINY: ClassVar[dict[str, Any]] = {"images": 8, "rounds": 1}

    images: int = 512
    """Images of an index."""
    rounds: int = 5
    """How often both are measured; medians are reported."""


def write_images(root: Path, count: int) -> Path:
    """Write JPEGs of 300×200 that are as rich as photographs: smooth shapes, edges and grain; some 20 KB each."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((300, 200), Image.Resampling.BICUBIC)
        blocks = generator.integers(0, 256, (25, 38, 3), dtype=np.uint8)
        edges = Image.fromarray(blocks).resize((300, 200), Image.Resampling.NEAREST)
        image = Image.blend(image, edges.filter(ImageFilter.GaussianBlur(1)), 0.35)
        grain = generator.normal(0, 5, (200, 300, 1))
        pixels = (np.asarray(image, dtype=np.float32) + grain).clip(0, 255).astype(np.uint8)
        path = root / f"class-{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=88)
    return root


def run(folder: Path, options: Options) -> dict[str, Any]:
    """Measure both, turn by turn."""
    bundle = write_bundle(folder / "resnet18")
    plain, engine = Engine(bundle), Engine(bundle, side_by_side=True)
    listing = list_images(write_images(folder / "images", options.images))
    chosen = IngestOptions()
    some = [engine.prepare(entry.path.read_bytes()) for entry in listing.entries[: 2 * chosen.batch]]
    batch = np.stack(some[: chosen.batch])
    for _ in range(3):
        plain.embed(batch)
        engine.embed_in_one_thread(batch[:8])  # as the index does

    passes = -(-options.images // (2 * chosen.batch))

    def bare_rate() -> float:
        return passes * chosen.batch / timed(lambda: [plain.embed(batch) for _ in range(passes)])

    def build(index: SearchIndex) -> None:
        add_images(index, engine, listing, options=chosen)
        index.optimize()

    rounds: list[dict[str, float]] = []
    after = bare_rate()
    for number in range(options.rounds):
        before = after
        with SearchIndex.create(
            folder / f"index-{number}", manifest=IndexManifest.of(engine), maintenance=False
        ) as index:
            built = options.images / timed(partial(build, index))
            assert index.size == options.images
        after = bare_rate()
        bare = (before + after) / 2
        rounds.append({"bare_per_s": round(bare, 2), "built_per_s": round(built, 2), "ratio": round(built / bare, 4)})
        print(rounds[-1], flush=True)
    medians = {key: round(statistics.median(one[key] for one in rounds), 4) for key in rounds[0]}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python " + " ".join(sys.argv),
        "network": "resnet18 at 224 px, D = 512",
        "images": options.images,
        "mean_file_bytes": round(statistics.mean(entry.path.stat().st_size for entry in listing.entries)),
        "batch": chosen.batch,
        **medians,
        "wanted": TARGET,
        "reached": medians["ratio"] >= TARGET,
        "rounds": rounds,
        **environment(),
    }


def main() -> None:
    """Run and write the result."""
    options = parse_options(Options, doc=__doc__, file=__file__)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options)
    options.write("index_build", result)


if __name__ == "__main__":
    main()
