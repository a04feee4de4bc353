"""The data sets by name. A new one is one module with `load` and one line here."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Final, cast

from hardrank.models.files import expand_user
from hardrank.models.home import typed
from hardrank.models.image_listing import ListingError, check_utf8, is_folder, printable
from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    ShowProgress,
    with_validation_classes,
)

DATASETS: Final[dict[str, str]] = {
    "demo": "hardrank.trainer.data.demo",
    "caltech101": "hardrank.trainer.data.caltech101",
    "cub": "hardrank.trainer.data.cub",
    "cars": "hardrank.trainer.data.cars",
    "sop": "hardrank.trainer.data.sop",
    "unlabelled": "hardrank.trainer.data.unlabelled",
    "folder": "hardrank.trainer.data.folder",
}
"""Name → module with `load(options, progress) -> Dataset`."""

_ONLY_FOR: Final[Mapping[str, frozenset[str]]] = {"csv": frozenset({"folder"}), "seed": frozenset({"demo"})}
"""Options that only some data sets use."""
_SPLITTING: Final = frozenset({"train_classes", "split_seed"})
_OWN_SPLIT: Final = frozenset({"cub", "cars", "sop"})
"""Data sets with a published split that cannot be changed."""


def load_dataset(options: DataOptions, *, progress: ShowProgress | None = None) -> Dataset:
    """Load a data set: list its images, check each of them, split by class.

    Args:
        options: Name and place of the data set, and its split.
        progress: Called with (done, total) after each image.

    Returns:
        Training and test images of disjoint classes, with everything that was left out.

    Raises:
        DatasetError: The data set is unknown, missing or damaged, has too few usable images, or the options do not fit.
    """
    if options.name not in DATASETS:
        raise DatasetError(f"unknown data set {options.name!r}; use one of {', '.join(DATASETS)}")
    _refuse_unused(options)
    root = None if options.root is None else expand_user(options.root)
    if root is not None and options.name != "demo" and not is_folder(root):
        raise DatasetError(f"data.root {printable(str(root))} is not a folder; check the path")
    load = cast(Callable[[DataOptions, ShowProgress | None], Dataset], import_module(DATASETS[options.name]).load)
    try:
        if root is not None:
            check_utf8(root)
        dataset = load(options, progress)
    except ListingError as error:
        raise DatasetError(str(error)) from error
    if options.validation_classes:
        return with_validation_classes(dataset, options.validation_classes, seed=options.split_seed or 0)
    return dataset


def _refuse_unused(options: DataOptions) -> None:
    """Raise `DatasetError` for an option that the data set does not use."""
    for entry in fields(options):
        users = [name for name in DATASETS if _uses(name, entry.name)]
        value = getattr(options, entry.name)
        if options.name not in users and value != entry.default:
            option = f"--data.{entry.name.replace('_', '-')}"
            raise DatasetError(
                f"the data set {options.name} does not use {option} (only {', '.join(users)}): remove it, or run "
                f"{typed('train')} {users[-1]} {option} {value}"
            )


def _uses(name: str, option: str) -> bool:
    if option in _SPLITTING:
        return name not in _OWN_SPLIT
    return name in _ONLY_FOR.get(option, DATASETS)
