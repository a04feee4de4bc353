"""The embedded data set: a small collection of painted objects that the project draws itself.

Sixty-four classes, each a shape × pattern × palette × material; an image of one differs by pose, light and background.
"""

from pathlib import Path
from typing import Final

from trainer.data.dataset import DataOptions, Dataset, DatasetError, ShowProgress, assemble
from trainer.data.demo.specification import DemoOptions
from trainer.data.demo.store import ensure, ignore_progress
from trainer.data.folder import list_folder

DEFAULT_ROOT: Final = Path(__file__).resolve().parents[3] / "data" / "demo"
"""Below the project's root; ignored by git."""


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Give the set at `root`, drawing it first where it is absent (some twenty seconds).

    Raises `DatasetError` when another split is asked for, and what `ensure` raises for a damaged or foreign folder.
    """
    if options.train_classes is not None or options.split_seed is not None:
        raise DatasetError("the demo set has its own split; leave data.train_classes and data.split_seed out")
    root = (options.root or DEFAULT_ROOT).expanduser()
    ensure(root, DemoOptions(seed=options.seed), progress=progress or ignore_progress)
    return assemble("demo", root, list_folder(root, options), options)
