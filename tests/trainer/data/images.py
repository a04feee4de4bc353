"""Miniature data sets, written by the tests themselves."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, seed: int = 0, side: int = 12) -> Path:
    """Write a small image of noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write_classes(root: Path, names: str | list[str], *, images: int = 2) -> Path:
    """Write folders of the names with as many images each."""
    for number, name in enumerate(names):
        for index in range(images):
            write_image(root / name / f"{name}_{index}.png", seed=100 * number + index)
    return root
