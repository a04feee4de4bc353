"""CUB-200-2011 as unpacked: classes 1–100 train, 101–200 test (method: Setting)."""

from pathlib import Path
from typing import Final

from trainer.data.dataset import DataOptions, Dataset, Entry, Listing, ShowProgress, assemble
from trainer.data.official import needed_root, read_table

_LAST_TRAIN: Final = 100


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read images.txt, image_class_labels.txt and classes.txt below `root`; raises `DatasetError`."""
    root = needed_root(options, "CUB_200_2011", "images.txt")
    images = {int(number): Path(name) for number, name in read_table(root / "images.txt", columns=2)}
    names = {int(number): name for number, name in read_table(root / "classes.txt", columns=2)}
    train: list[Entry] = []
    test: list[Entry] = []
    for image, label in read_table(root / "image_class_labels.txt", columns=2):
        entry = Entry(root / "images" / images[int(image)], names[int(label)])
        (train if int(label) <= _LAST_TRAIN else test).append(entry)
    return assemble("cub", root, Listing(train, test), options, progress)
