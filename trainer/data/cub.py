"""CUB-200-2011 as unpacked: classes 1–100 train, 101–200 test (method: Setting)."""

from typing import Final

from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    LabeledImage,
    ShowProgress,
    TrainTestImages,
    assemble,
)
from hardrank.trainer.data.official import needed_root, read_table

_LAST_TRAIN: Final = 100


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read images.txt, image_class_labels.txt and classes.txt below `root`; raises `DatasetError`."""
    root = needed_root(options, "CUB_200_2011", "images.txt")
    images = dict(read_table(root / "images.txt", columns=2))
    names = dict(read_table(root / "classes.txt", columns=2))
    train: list[LabeledImage] = []
    test: list[LabeledImage] = []
    for image, label in read_table(root / "image_class_labels.txt", columns=2):
        if image not in images or label not in names:
            raise DatasetError(
                f"{root / 'image_class_labels.txt'}: image {image} of class {label} is not in images.txt and "
                "classes.txt; unpack the archive again"
            )
        (train if int(label) <= _LAST_TRAIN else test).append(
            LabeledImage(root / "images" / images[image], names[label])
        )
    return assemble("cub", root, TrainTestImages(train, test), options, progress)
