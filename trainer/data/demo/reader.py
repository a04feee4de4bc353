"""The demo set as a data set for training."""

from hardrank.models.files import expand_user
from hardrank.models.home import home, typed
from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    LabeledImage,
    ShowProgress,
    TrainTestImages,
    assemble,
    split_classes,
)
from hardrank.trainer.data.demo.errors import DemoOptionError
from hardrank.trainer.data.demo.specification import DemoOptions, Half
from hardrank.trainer.data.demo.store import ensure, ignore_progress

DEFAULT_ROOT = home() / "data" / "demo"
"""Ignored by git."""


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Load the demo set of `options`, and draw it first if it does not exist (about a minute for 4 000 images).

    Without `train_classes` and `split_seed` the set's own halves are used, 32 classes each, and
    `extra_train_classes` more in the training half. Both have every shape,
    pattern, palette and material, in different combinations. A demo set of another seed or size in the root is
    replaced; the default roots differ by size.

    Raises:
        DemoDamagedError: Images are missing or have changed since they were drawn.
        DemoFolderError: The folder contains something else.
        DemoOptionError: The parent folder does not exist.
    """
    default = DEFAULT_ROOT.with_name(_folder_name(options))
    root = expand_user(options.root or default)
    if options.root is not None and not root.parent.is_dir():  # do not write two thousand files to a mistyped path
        raise DemoOptionError(
            f"cannot create data.root {options.root}: the folder {root.parent} does not exist. Create it, or leave out "
            f"--data.root, or train on your own images: {typed('train')} folder --data.root FOLDER"
        )
    manifest = ensure(
        root,
        DemoOptions(
            seed=options.seed,
            train_images_per_class=options.train_images_per_class,
            extra_train_classes=options.extra_train_classes,
        ),
        progress=progress or ignore_progress,
    )
    entries: dict[Half, list[LabeledImage]] = {half: [] for half in Half}
    for name in manifest["files"]:
        half, label, _ = name.split("/")
        entries[Half(half)].append(LabeledImage(root / name, label))
    if options.train_classes is None and options.split_seed is None:
        listing = TrainTestImages(entries[Half.TRAIN], entries[Half.TEST])
    else:
        listing = split_classes([*entries[Half.TRAIN], *entries[Half.TEST]], options)
    return assemble("demo", root, listing, options, progress)


def _folder_name(options: DataOptions) -> str:
    images, classes = options.train_images_per_class, options.extra_train_classes
    return DEFAULT_ROOT.name + (f"-{images}" if images else "") + (f"-{classes}-classes" if classes else "")
