"""Cars-196 as unpacked: classes 1–98 train, 99–196 test (method: Setting)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trainer.data.dataset import DataOptions, Dataset, DatasetError, Entry, Listing, ShowProgress, assemble
from trainer.data.official import needed_root

_LAST_TRAIN: Final = 98
_SPLIT_LAYOUT: Final = (
    ("cars_train", "devkit/cars_train_annos.mat"),
    ("cars_test", "devkit/cars_test_annos_withlabels.mat"),
)


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read cars_annos.mat and car_ims/, or devkit/ with cars_train/ and cars_test/; raises `DatasetError`."""
    root = needed_root(options, "stanford_cars", "cars_annos.mat", _SPLIT_LAYOUT[0][1])
    train: list[Entry] = []
    test: list[Entry] = []
    for path, label in _single(root) if (root / "cars_annos.mat").is_file() else _two_part(root):
        (train if label <= _LAST_TRAIN else test).append(Entry(path, f"{label:03d}"))
    return assemble("cars", root, Listing(train, test), options, progress)


def _single(root: Path) -> Iterator[tuple[Path, int]]:
    for row in _annotations(root / "cars_annos.mat"):
        yield root / str(row["relative_im_path"]), int(row["class"])


def _two_part(root: Path) -> Iterator[tuple[Path, int]]:
    for folder, table in _SPLIT_LAYOUT:
        for row in _annotations(root / table):
            yield root / folder / str(row["fname"]), int(row["class"])


def _annotations(path: Path) -> Iterator[Any]:
    from scipy.io import loadmat

    try:
        table = loadmat(path, squeeze_me=True)["annotations"]
        yield from table.reshape(-1)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"cannot read the annotations of {path}: {error}") from error
