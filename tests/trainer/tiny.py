"""A data set and a recipe small enough to train in seconds: eight classes of colored gratings at 32 px."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CLASSES = 8
IMAGES = 8


def write_images(root: Path) -> Path:
    """Write class folders of PNGs: a class is a color and a direction, an image a phase and some noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:40] / 40
    for label in range(CLASSES):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True)
        color, angle = generator.uniform(0.3, 1, 3), np.pi * label / CLASSES
        for number in range(IMAGES):
            wave = np.sin(12 * (x * np.cos(angle) + y * np.sin(angle)) + generator.uniform(0, 6))
            pixels = (0.5 + 0.3 * wave[..., None]) * color + generator.normal(0, 0.05, (40, 40, 3))
            Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8)).save(folder / f"{number}.png")
    return root


def write_recipe(path: Path, images: Path, **changes: Any) -> Path:
    """Write a recipe for these images: a warm-up, two models, a few attacked queries."""
    content: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "folder", "root": str(images)},
        "preprocessing": {"resize": 36, "crop": 32},
        "architecture": {"backbone": "small-resnet", "dimension": 16, "image_size": 32},
        "warmup": {"epochs": 6, "batch_size": 16},
        "benign": {"defense": "regular[S]", "epochs": 3, "pairs": 8, "averaging": 0.9},
        "robust": {"defense": "HM[S,g_LGA]&ICS", "epochs": 3, "pairs": 8, "steps": 2, "warmup_epsilon": "2/255"},
        "evaluation": {"attacked": 6, "steps": 2, "strong_images": 2},
    }
    path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return path
