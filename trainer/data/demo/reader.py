"""The demo set as training sees it."""

from hardrank.models.home import home
from hardrank.trainer.data.dataset import DataOptions, Dataset, Entry, Listing, ShowProgress, assemble, split_classes
from hardrank.trainer.data.demo.errors import DemoOptionError
from hardrank.trainer.data.demo.specification import DemoOptions, Half
from hardrank.trainer.data.demo.store import ensure, ignore_progress

DEFAULT_ROOT = home() / "data" / "demo"
"""Ignored by git."""


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """The demo set of `options.seed`, drawn into the root where it is absent (some twenty seconds).

    Without `train_classes` and `split_seed` the set's own halves are taken, 32 classes each; both have every shape,
    pattern, palette and material, in combinations of their own. A demo set of another seed that lies in the root is
    replaced. Raises `DemoDamagedError` where images were lost or changed since they were drawn, `DemoForeignError`
    where the folder holds something else, `DemoOptionError` where the folder above it is missing.
    """
    root = (options.root or DEFAULT_ROOT).expanduser()
    if options.root is not None and not root.parent.is_dir():  # a mistyped path is no place for two thousand files
        raise DemoOptionError(
            f"data.root {options.root} cannot be made, for there is no folder {root.parent}: make that one, or "
            "leave out --data.root, or train on your own images with python trainer/run.py folder --data.root DIR"
        )
    manifest = ensure(root, DemoOptions(seed=options.seed), progress=progress or ignore_progress)
    entries: dict[Half, list[Entry]] = {half: [] for half in Half}
    for name in manifest["files"]:
        half, label, _ = name.split("/")
        entries[Half(half)].append(Entry(root / name, label))
    if options.train_classes is None and options.split_seed is None:
        listing = Listing(entries[Half.TRAIN], entries[Half.TEST])
    else:
        listing = split_classes([*entries[Half.TRAIN], *entries[Half.TEST]], options)
    return assemble("demo", root, listing, options, progress)
