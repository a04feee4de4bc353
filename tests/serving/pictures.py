"""Image files to index."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, *, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    """Write a smooth random image; the suffix determines the format."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def write_gallery(root: Path, *, labels: int = 3, each: int = 4) -> Path:
    """Write class folders of PNGs and JPEGs."""
    for label in range(labels):
        for number in range(each):
            suffix = ".png" if number % 2 else ".jpg"
            write_picture(root / f"class-{label}" / f"{number}{suffix}", seed=100 * label + number)
    return root
