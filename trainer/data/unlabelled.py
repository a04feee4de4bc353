"""Images without classes: each image is a class of its own, whose second member is an augmented copy of it.

So a pair of a batch is an image and its copy, and Recall@1 is the share of test images, originals and copies, whose
nearest other one is the other of the pair, among all originals and copies.
"""

from dataclasses import replace
from typing import Final

from hardrank.models.files import expand_user
from hardrank.models.image_listing import list_folder
from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    LabeledImage,
    ShowProgress,
    assemble,
    split_classes,
)

_TESTED: Final = 0.2
"""Share of the images that test, unless `train_classes` says otherwise."""
_MOST_TESTED: Final = 1000


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """List all images below `root`, in whatever folders; a fifth of them, at most 1000, is held out for testing.

    Files of equal content count once.

    Raises:
        ListingError: The folder cannot be read.
        DatasetError: There are too few images.
    """
    if options.root is None:
        raise DatasetError("no images given: use --data.root FOLDER of images; they need no classes")
    root = expand_user(options.root)
    listing = list_folder(root)
    images = [LabeledImage(image.path, image.name) for image in listing.images]
    if len(images) < 4:
        raise DatasetError(f"{root} has {len(images)} images; at least four are needed (two to train, two to test)")
    tested = min(_MOST_TESTED, max(2, round(_TESTED * len(images))))
    shuffled = replace(options, split_seed=options.split_seed or 0)
    listed = split_classes(images, shuffled, default=len(images) - tested)
    found = replace(listed, problems=listing.problems)
    return assemble("unlabelled", root, found, options, progress, with_copies=True)
