"""The data sets by name. A new one is one file with `load`, and one line here."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Final, cast

from hardrank.trainer.data.dataset import DataOptions, Dataset, DatasetError, ShowProgress

DATASETS: Final[dict[str, str]] = {
    "demo": "hardrank.trainer.data.demo",
    "caltech101": "hardrank.trainer.data.caltech101",
    "cub": "hardrank.trainer.data.cub",
    "cars": "hardrank.trainer.data.cars",
    "sop": "hardrank.trainer.data.sop",
    "folder": "hardrank.trainer.data.folder",
}
"""Name → module with `load(options, progress) -> Dataset`."""

_ONLY_FOR: Final[Mapping[str, frozenset[str]]] = {"csv": frozenset({"folder"}), "seed": frozenset({"demo"})}
"""Options that few data sets use."""
_SPLITTING: Final = frozenset({"train_classes", "split_seed"})
_OWN_SPLIT: Final = frozenset({"cub", "cars", "sop"})
"""Data sets that are split as published, whatever is asked."""


def load_dataset(options: DataOptions, *, progress: ShowProgress | None = None) -> Dataset:
    """Read the data set that `options` names; raises `DatasetError`."""
    if options.name not in DATASETS:
        raise DatasetError(f"no data set is called {options.name!r}; there are {', '.join(DATASETS)}")
    _refuse_unused(options)
    if options.root is not None and not options.root.expanduser().is_dir() and options.name != "demo":
        raise DatasetError(f"data.root {options.root} is no folder")
    load = cast(Callable[[DataOptions, ShowProgress | None], Dataset], import_module(DATASETS[options.name]).load)
    return load(options, progress)


def _refuse_unused(options: DataOptions) -> None:
    """Raise `DatasetError` for an option that was given to a data set which would pass over it in silence."""
    for entry in fields(options):
        users = [name for name in DATASETS if _uses(name, entry.name)]
        value = getattr(options, entry.name)
        if options.name not in users and value != entry.default:
            option = f"--data.{entry.name.replace('_', '-')}"
            recipes = "the recipe" if len(users) == 1 else "the recipes"
            raise DatasetError(
                f"{option} belongs to {recipes} {', '.join(users)}, and {options.name} has no use for it: leave it "
                f"out, or python trainer/run.py {users[-1]} {option} {value}"
            )


def _uses(name: str, option: str) -> bool:
    if option in _SPLITTING:
        return name not in _OWN_SPLIT
    return name in _ONLY_FOR.get(option, DATASETS)
