"""Caltech-101 (Fei-Fei, Fergus, Perona): photographs in class folders; the first 40 classes train."""

import os
from pathlib import Path
from typing import Final

from hardrank.models.files import expand_user
from hardrank.models.home import typed
from hardrank.models.image_listing import subfolders
from hardrank.trainer.data.dataset import DataOptions, Dataset, DatasetError, ShowProgress, assemble
from hardrank.trainer.data.folder import class_folders

_TRAIN_CLASSES: Final = 40
_SOME_CLASSES: Final = frozenset({"accordion", "barrel", "bonsai", "chair", "ewer", "lotus", "starfish", "yin_yang"})
"""Any of these identifies the data set, so a part of it can be used too."""


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read the class folders in `root`; raises `DatasetError` if it does not contain Caltech-101."""
    root = expand_user(options.root) if options.root is not None else _default_root()
    _refuse_others(root, options)
    return assemble("caltech101", root, class_folders(root, options, default=_TRAIN_CLASSES), options, progress)


def _refuse_others(root: Path, options: DataOptions) -> None:
    """Raise `DatasetError` for a folder of other images, whose results would be reported as those of Caltech-101."""
    names = set(subfolders(root))
    halves = {name for half in ("train", "test") if half in names for name in subfolders(root / half)}
    if not _SOME_CLASSES & (names | halves):
        raise DatasetError(
            f"{root} is not Caltech-101: it has no folders {', '.join(sorted(_SOME_CLASSES)[:3])}, …. Give the folder "
            f"of its class folders, or train on your own images: {typed('train')} folder --data.root {root}"
        )
    if not halves and options.train_classes is None and len(names) <= _TRAIN_CLASSES:
        raise DatasetError(
            f"{root} has only {len(names)} classes of Caltech-101, and the first {_TRAIN_CLASSES} are trained on: "
            "unpack all classes, or give a smaller --data.train-classes"
        )


def _default_root() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared"
    root = Path(os.environ.get("SHARED_DIR", beside)) / "data" / "caltech101"
    if not root.is_dir():
        raise DatasetError(
            "Caltech-101 was not found: download it (CaltechDATA, doi:10.22002/D1.20086), unpack its class folders and "
            "give --data.root FOLDER"
        )
    return root
