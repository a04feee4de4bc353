"""Caltech-101 (Fei-Fei, Fergus, Perona): photographs in class folders; the first 40 classes train."""

import os
from pathlib import Path
from typing import Final

from hardrank.trainer.data.dataset import DataOptions, Dataset, DatasetError, ShowProgress, assemble
from hardrank.trainer.data.folder import list_folder

_TRAIN_CLASSES: Final = 40
_SOME_CLASSES: Final = frozenset({"accordion", "barrel", "bonsai", "chair", "ewer", "lotus", "starfish", "yin_yang"})
"""By these it is known; a part of the photographs does too."""


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read the class folders below `root`; raises `DatasetError` where they are not found, or are another's."""
    root = options.root.expanduser() if options.root is not None else _default_root()
    _refuse_others(root, options)
    return assemble("caltech101", root, list_folder(root, options, default=_TRAIN_CLASSES), options, progress)


def _refuse_others(root: Path, options: DataOptions) -> None:
    """Raise `DatasetError` for a folder of other images, which would be measured under the name of Caltech-101."""
    names = {path.name for path in root.iterdir() if path.is_dir()}
    halves = {path.name for half in ("train", "test") for path in root.glob(f"{half}/*") if path.is_dir()}
    if not _SOME_CLASSES & (names | halves):
        raise DatasetError(
            f"{root} is not Caltech-101: it has no folders {', '.join(sorted(_SOME_CLASSES)[:3])}, …; give the "
            f"folder of its class folders, or train on your own images: python trainer/run.py folder --data.root {root}"
        )
    if not halves and options.train_classes is None and len(names) <= _TRAIN_CLASSES:
        raise DatasetError(
            f"{root} has {len(names)} of the classes of Caltech-101, and {_TRAIN_CLASSES} are trained on, the others "
            "tested: unpack all of it, or give a smaller --data.train-classes"
        )


def _default_root() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared"
    root = Path(os.environ.get("SHARED_DIR", beside)) / "data" / "caltech101"
    if not root.is_dir():
        raise DatasetError(
            "Caltech-101 is not at hand: get it (CaltechDATA, doi:10.22002/D1.20086), unpack its class folders, and "
            "give --data.root FOLDER"
        )
    return root
