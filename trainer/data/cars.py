"""Cars-196 as unpacked: classes 1–98 train, 99–196 test (method: Setting)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    LabeledImage,
    ShowProgress,
    TrainTestImages,
    assemble,
)
from hardrank.trainer.data.official import needed_root

_LAST_TRAIN: Final = 98
_SPLIT_LAYOUT: Final = (
    ("cars_train", "devkit/cars_train_annos.mat"),
    ("cars_test", "devkit/cars_test_annos_withlabels.mat"),
)


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read cars_annos.mat and car_ims/, or devkit/ with cars_train/ and cars_test/; raises `DatasetError`."""
    root = needed_root(options, "stanford_cars", "cars_annos.mat", _SPLIT_LAYOUT[0][1])
    train: list[LabeledImage] = []
    test: list[LabeledImage] = []
    for path, label in _single(root) if (root / "cars_annos.mat").is_file() else _two_part(root):
        (train if label <= _LAST_TRAIN else test).append(LabeledImage(path, f"{label:03d}"))
    return assemble("cars", root, TrainTestImages(train, test), options, progress)


def _single(root: Path) -> Iterator[tuple[Path, int]]:
    for name, label in _annotations(root / "cars_annos.mat", "relative_im_path"):
        yield root / name, label


def _two_part(root: Path) -> Iterator[tuple[Path, int]]:
    for folder, table in _SPLIT_LAYOUT:
        for name, label in _annotations(root / table, "fname"):
            yield root / folder / name, label


def _annotations(path: Path, name: str) -> list[tuple[str, int]]:
    from scipy.io import loadmat

    try:
        table = np.atleast_1d(loadmat(path, squeeze_me=True)["annotations"])
        return [(str(row[name]), int(row["class"])) for row in table]
    except Exception as error:  # SciPy raises errors of its own, of struct and of zlib for a damaged file
        raise DatasetError(
            f"cannot read the fields {name} and class of the annotations in {path} ({error}); unpack it again "
            "(of the test half, the file with labels)"
        ) from error
