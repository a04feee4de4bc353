"""A list of images for others to read: what is built of a run's test images needs no code of the trainer."""

import csv
from pathlib import Path
from typing import Final

from hardrank.models.files import atomic_path
from hardrank.trainer.data.dataset import Dataset, relative

TEST_IMAGES: Final = "test_images.csv"
"""In a run's folder: the images it was tested with."""


def write_test_images(dataset: Dataset, path: Path) -> None:
    """Write path, relative_path (below the data set's folder) and label of each test image, as CSV, atomically."""
    test = dataset.test
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "relative_path", "label"])
        for image, label in zip(test.paths, test.labels, strict=True):
            writer.writerow([image.resolve(), relative(image, dataset.root), test.classes[label]])
