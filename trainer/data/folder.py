"""Your own images: a folder of class folders, or a CSV file of path,label[,split]."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hardrank.models.files import expand_user
from hardrank.models.image_listing import (
    ImageProblem,
    ImageProblemKind,
    list_csv,
    list_folder,
    printable,
    subfolders,
)
from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    LabeledImage,
    ShowProgress,
    TrainTestImages,
    assemble,
    split_classes,
)

_HALVES: Final = ("train", "test")


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read the class folders in `root`, or the rows of `csv`.

    If `root` contains the folders `train` and `test`, they are the split, and folders beside them are left out.
    Otherwise the first half of the classes trains, or `train_classes`. A column `split` of a CSV file decides likewise.

    Raises:
        ListingError: The folder or file cannot be read.
        DatasetError: The images cannot be split by class.
    """
    if options.csv is not None and options.root is not None:
        raise DatasetError("--data.root and --data.csv both name the images; give one of them")
    if options.csv is not None:
        path = expand_user(options.csv)
        return assemble("folder", path.parent, _read_csv(path, options), options, progress)
    if options.root is None:
        raise DatasetError(
            "no images given: use --data.root FOLDER (with a folder for each class) or --data.csv FILE (path,label)"
        )
    root = expand_user(options.root)
    return assemble("folder", root, class_folders(root, options), options, progress)


def class_folders(root: Path, options: DataOptions, *, default: int | float = 0.5) -> TrainTestImages:
    """List and split the images of class folders. `default` replaces `train_classes` if that is not given."""
    top = set(subfolders(root))
    if top >= set(_HALVES):
        _refuse_split(options, f"the folders train and test in {root}")
        beside = [
            ImageProblem(path=printable(name), kind=ImageProblemKind.OUTSIDE) for name in sorted(top - set(_HALVES))
        ]
        (train, train_problems), (test, test_problems) = (_labeled(root, half) for half in _HALVES)
        _check_disjoint(str(root), train, test)
        return TrainTestImages(train, test, [*beside, *train_problems, *test_problems])
    images, problems = _labeled(root)
    count = len({image.label for image in images})
    if count < 4:
        raise DatasetError(
            f"{root} has {count} class folders with images; at least four are needed (two to train, two to test). Put "
            "the images of each class in a folder of its own"
        )
    halves = split_classes(images, options, default=default)
    return TrainTestImages(halves.train, halves.test, problems)


def _refuse_split(options: DataOptions, deciding: str) -> None:
    """Raise `DatasetError` for a split that is given although the images have one already."""
    if options.train_classes is not None or options.split_seed is not None:
        raise DatasetError(f"{deciding} decides the split: leave out --data.train-classes and --data.split-seed")


def _check_disjoint(place: str, train: Iterable[LabeledImage], test: Iterable[LabeledImage]) -> None:
    if shared := {image.label for image in train} & {image.label for image in test}:
        raise DatasetError(
            f"{place}: the class {min(shared)!r} is in both train and test; retrieval is tested on classes that were "
            "not trained"
        )


def _labeled(root: Path, half: str = "") -> tuple[list[LabeledImage], list[ImageProblem]]:
    """The images of the class folders in `root` (or a half of it), and problems by their path relative to `root`."""
    listing = list_folder(root / half)
    prefix = f"{half}/" if half else ""
    images: list[LabeledImage] = []
    problems = [
        ImageProblem(path=prefix + problem.path, kind=problem.kind, detail=problem.detail)
        for problem in listing.problems
    ]
    for image in listing.images:
        if image.label is None:
            problems.append(ImageProblem(path=prefix + image.name, kind=ImageProblemKind.NO_CLASS))
        else:
            images.append(LabeledImage(image.path, image.label))
    empty = set(listing.folders) - {image.name.partition("/")[0] for image in listing.images}
    problems += [ImageProblem(path=prefix + name, kind=ImageProblemKind.EMPTY) for name in sorted(empty)]
    return images, problems


def _read_csv(path: Path, options: DataOptions) -> TrainTestImages:
    listing = list_csv(path)
    if "label" not in listing.columns:
        raise DatasetError(f"{path} needs the columns path and label; its header is {','.join(listing.columns)!r}")
    has_split = "split" in listing.columns
    halves: dict[str, list[LabeledImage]] = {half: [] for half in (_HALVES if has_split else ("",))}
    problems = list(listing.problems)
    seen: set[Path] = set()
    for image in listing.images:
        half = image.columns.get("split", "").lower()
        kind, detail = ImageProblemKind.BAD_ROW, f"line {image.line}"
        if image.label is None:
            problems.append(ImageProblem(path=image.name, kind=kind, detail=f"{detail}: no label"))
        elif has_split and half not in halves:
            problems.append(ImageProblem(path=image.name, kind=kind, detail=f"{detail}: the split is {half!r}"))
        elif image.path in seen:
            problems.append(ImageProblem(path=image.name, kind=ImageProblemKind.DUPLICATE, detail=detail))
        else:
            seen.add(image.path)
            halves[half if has_split else ""].append(LabeledImage(image.path, image.label))
    if not has_split:
        parts = split_classes(halves[""], options)
        return TrainTestImages(parts.train, parts.test, problems)
    _refuse_split(options, f"the column split of {path}")
    _check_disjoint(str(path), halves["train"], halves["test"])
    return TrainTestImages(halves["train"], halves["test"], problems)
