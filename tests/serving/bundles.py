"""Bundles of tiny untrained networks, made in a second."""

from datetime import UTC, datetime
from pathlib import Path

import torch

from hardrank.models.bundle import ONNX, WEIGHTS, save_bundle
from hardrank.models.card import ArchitectureEntry, Card, FileEntry, PreprocessingEntry
from hardrank.models.embedder import Architecture, build_embedder
from hardrank.trainer.export import export_onnx, save_weights

DIMENSION = 16


def write_bundle(folder: Path, *, seed: int, defense: str = "regular[S]", size: int = 32) -> Path:
    """Export an untrained network as the bundle `folder`: `size` px input, 16-dimensional embeddings."""
    architecture = Architecture(backbone="small-resnet", dimension=DIMENSION, image_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedder = build_embedder(architecture).eval()

    def write(unfinished: Path) -> None:
        export_onnx(embedder, unfinished / ONNX)
        save_weights(embedder, unfinished / WEIGHTS)

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
