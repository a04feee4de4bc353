"""What the benchmarks of serving serve: a bundle, an index, and the images that are sent."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from hardrank.models.bundle import ONNX, WEIGHTS, save_bundle
from hardrank.models.card import ArchitectureEntry, Card, FileEntry, PreprocessingEntry
from hardrank.models.embedder import Architecture, build_embedder
from hardrank.serving.engine import Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.store.items import NewItem
from hardrank.serving.store.manifest import IndexManifest
from hardrank.trainer.export import export_onnx, save_weights
from hardrank.trainer.runtime.environment import versions

DIMENSION: Final = 512
IMAGES: Final = 64


def write_bundle(folder: Path) -> Path:
    """ResNet-18 at 224 px with random weights, as the bundle `folder`."""
    architecture = Architecture(backbone="resnet18", dimension=DIMENSION, image_size=224)
    torch.manual_seed(0)
    embedder = build_embedder(architecture).eval()

    def write(unfinished: Path) -> None:
        export_onnx(embedder, unfinished / ONNX)
        save_weights(embedder, unfinished / WEIGHTS)

    def card(files: dict[str, FileEntry]) -> Card:
        return Card(
            name="resnet18",
            run_id="benchmark",
            created=datetime.now(UTC),
            command="python benchmarks/serving.py",
            defense="none",
            recipe="none",
            config={},
            seeds={"run": 0},
            architecture=ArchitectureEntry(**vars(architecture)),
            preprocessing=PreprocessingEntry(resize=256, crop=224),
            data={},
            metrics={},
            robustness=None,
            parity={},
            versions=versions(),
            hardware={},
            durations={},
            files=files,
        )

    save_bundle(folder, card, write, overwrite=True)
    return folder


def photograph(seed: int) -> bytes:
    """A 300×200 JPEG with about as much detail as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize(
        (300, 200), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, dtype=np.float32) + generator.normal(0, 12, (200, 300, 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def write_images(folder: Path) -> Path:
    """The images that are sent; their names are the ids under which they are indexed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        (folder / f"sent-{number:02}.jpg").write_bytes(photograph(number))
    return folder


def write_index(folder: Path, bundle: Path, images: Path, size: int, metadata_bytes: int) -> Path:
    """`size` items around random centers, with the structure that is chosen for so many; then the images themselves."""
    metadata = {"text": "x" * metadata_bytes} if metadata_bytes else {}
    engine = Engine(bundle)
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(1000, DIMENSION)).astype(np.float32)
    with SearchIndex.create(folder, manifest=IndexManifest.of(engine), maintenance=False) as index:
        for start in range(0, size, 10_000):
            count = min(10_000, size - start)
            vectors = centers[generator.integers(0, len(centers), count)] + 0.8 * generator.normal(
                size=(count, DIMENSION)
            )
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            index.add(
                [
                    NewItem(
                        id=f"item-{start + row}", vector=vector, label=f"label-{(start + row) % 100}", metadata=metadata
                    )
                    for row, vector in enumerate(vectors.astype(np.float32))
                ]
            )
        index.optimize()
        for path in sorted(images.glob("*.jpg")):
            vector = engine.embed(engine.prepare(path.read_bytes())[None])[0]
            index.add([NewItem(id=path.stem, vector=vector, label="sent")])
    return folder


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What all sections share."""

    bundle: Path
    images: Path
    index: Path
    size: int

    @property
    def first(self) -> Path:
        """One of the images."""
        return min(self.images.glob("*.jpg"))


def prepare(folder: Path, size: int, *, metadata_bytes: int = 0) -> Scene:
    """Make what is served, unless it is there from another run."""
    bundle, images, index = folder / "resnet18", folder / "images", folder / f"index-{size}-{metadata_bytes}"
    if not (bundle / "card.json").exists():
        write_bundle(bundle)
    write_images(images)
    if not index.exists():
        print(f"indexing {size} items …", flush=True)
        write_index(index, bundle, images, size, metadata_bytes)
    return Scene(bundle=bundle, images=images, index=index, size=size)
