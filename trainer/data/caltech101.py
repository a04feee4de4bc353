"""Caltech-101 (Fei-Fei, Fergus, Perona): photographs in class folders; the first 40 classes train."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from trainer.data.dataset import DataOptions, Dataset, DatasetError, ShowProgress, assemble
from trainer.data.folder import list_folder

_TRAIN_CLASSES: Final = 40


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read the class folders below `root`; raises `DatasetError` where they are not found."""
    root = options.root.expanduser() if options.root is not None else _default_root()
    if options.train_classes is None:
        options = replace(options, train_classes=_TRAIN_CLASSES)
    return assemble("caltech101", root, list_folder(root, options), options, progress)


def _default_root() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared"
    root = Path(os.environ.get("SHARED_DIR", beside)) / "data" / "caltech101"
    if not root.is_dir():
        raise DatasetError(
            "Caltech-101 is not at hand: get it (CaltechDATA, doi:10.22002/D1.20086), unpack its class folders, and "
            "give --data.root FOLDER"
        )
    return root
