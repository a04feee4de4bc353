"""The data sets by name. A new one is one file with `load`, and one line here."""

from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from trainer.data.dataset import DataOptions, Dataset, DatasetError, ShowProgress

DATASETS: Final[dict[str, str]] = {
    "demo": "trainer.data.demo",
    "caltech101": "trainer.data.caltech101",
    "cub": "trainer.data.cub",
    "cars": "trainer.data.cars",
    "sop": "trainer.data.sop",
    "folder": "trainer.data.folder",
}
"""Name → module with `load(options, progress) -> Dataset`."""


def load_dataset(options: DataOptions, *, progress: ShowProgress | None = None) -> Dataset:
    """Read the data set that `options` names; raises `DatasetError`."""
    if options.name not in DATASETS:
        raise DatasetError(f"no data set is called {options.name!r}; there are {', '.join(DATASETS)}")
    if options.root is not None and not options.root.expanduser().is_dir() and options.name != "demo":
        raise DatasetError(f"data.root {options.root} is no folder")
    load = cast(Callable[[DataOptions, ShowProgress | None], Dataset], import_module(DATASETS[options.name]).load)
    return load(options, progress)
