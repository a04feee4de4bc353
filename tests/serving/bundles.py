"""Bundles of tiny untrained networks, made in a second."""

import functools
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from hardrank.models.bundle import ONNX, WEIGHTS, save_bundle
from hardrank.models.card import ArchitectureEntry, Card, FileEntry, PreprocessingEntry
from hardrank.models.embedder import Architecture, build_embedder
from hardrank.trainer.export import export_onnx, save_weights

DIMENSION = 16


@functools.cache
def _export(architecture: Architecture, seed: int) -> dict[str, bytes]:
    """Return the files of an untrained network; a process exports each once, since that takes seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedder = build_embedder(architecture).eval()
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(embedder, Path(folder) / ONNX)
        save_weights(embedder, Path(folder) / WEIGHTS)
        return {name: (Path(folder) / name).read_bytes() for name in (ONNX, WEIGHTS)}


def write_bundle(folder: Path, *, seed: int, defense: str = "regular[S]", size: int = 32) -> Path:
    """Export an untrained network as the bundle `folder`: `size` px input, 16-dimensional embeddings."""
    architecture = Architecture(backbone="small-resnet", dimension=DIMENSION, image_size=size)

    def write(unfinished: Path) -> None:
        for name, content in _export(architecture, seed).items():
            (unfinished / name).write_bytes(content)

    def card(files: dict[str, FileEntry]) -> Card:
        return Card(
            name=folder.name,
            run_id=f"seed {seed}",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            command="python trainer/run.py",
            defense=defense,
            recipe="demo",
            config={"name": folder.name.rpartition("-")[0]},
            seeds={"run": seed},
            architecture=ArchitectureEntry(**vars(architecture)),
            preprocessing=PreprocessingEntry(resize=size + 4, crop=size),
            data={},
            metrics={"recall_at_1": 0.5},
            robustness=None,
            parity={},
            versions={},
            hardware={},
            durations={},
            files=files,
        )

    save_bundle(folder, card, write)
    return folder
