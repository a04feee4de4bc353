"""A data set: labeled images, split into disjoint training and test classes."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardrank.models.decode_limits import UndecodableImageError
from hardrank.models.decoding import decode, read_bytes
from hardrank.models.errors import HardrankError
from hardrank.models.files import atomic_path
from hardrank.models.image_listing import ImageProblem, ImageProblemKind, is_file

ShowProgress = Callable[[int, int], None]
"""Called with (done, total)."""


class DatasetError(HardrankError):
    """A data set without enough usable images, or options that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The images, and which of their classes train."""

    name: str = "demo"
    """The data set: demo, caltech101, cub, cars, sop, unlabelled or folder."""
    root: Path | None = None
    """Its folder; default: that of the data set. `demo` is drawn into it; the parent folder must exist."""
    csv: Path | None = None
    """For `folder`: a CSV file of path,label[,split] instead of class folders; paths are relative to its folder."""
    train_classes: int | float | None = None
    """Number of classes that train (an integer), or their fraction (below 1); default: the data set's own split. Of
    `unlabelled`: of images."""
    split_seed: int | None = None
    """Seed that shuffles the classes before they are split; default: alphabetical order."""
    validation_classes: int = 0
    """For the choice of settings: so many of the training classes do not train, and are measured in place of the test
    classes, which stay unseen. 0 for the test classes."""
    seed: int = 0
    """Seed of the images of `demo`."""
    train_images_per_class: int | None = None
    """Images of each training class of `demo`; default: as many as of each test class, 26. The test images are the same
    with any number."""
    extra_train_classes: int | None = None
    """Further training classes of `demo`, a multiple of 16 up to 256; default: none, beside its 32. The test images are
    the same with any number."""
    decode_check: bool = True
    """Decode every image once before training, to find damaged ones."""

    def __post_init__(self) -> None:
        if self.validation_classes != 0 and self.validation_classes < 2:
            raise DatasetError(f"data.validation_classes must be 0 or at least 2, not {self.validation_classes}")
        for name in ("seed", "split_seed"):
            if (getattr(self, name) or 0) < 0:
                raise DatasetError(f"data.{name} must be at least 0, not {getattr(self, name)}")
        if self.train_images_per_class is not None and self.train_images_per_class < 2:
            raise DatasetError(f"data.train_images_per_class must be at least 2, not {self.train_images_per_class}")


@dataclass(frozen=True)
class Split:
    """The images of the training or the test classes."""

    paths: tuple[Path, ...]
    """Files, in a fixed order."""
    labels: npt.NDArray[np.int64]
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names in order of their label."""
    copies: npt.NDArray[np.bool_] | None = None
    """(N,), which rows are an augmented copy of their image (`near_duplicates.py`); None for no copies."""

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> dict[str, int]:
        """Counts for the card."""
        sizes = np.bincount(self.labels, minlength=len(self.classes))
        return {
            "images": len(self) - (0 if self.copies is None else int(self.copies.sum())),
            "classes": len(self.classes),
            "smallest_class": int(sizes.min()),
            "largest_class": int(sizes.max()),
        }


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test images of disjoint classes (zero-shot protocol)."""

    name: str
    root: Path
    train: Split
    test: Split
    problems: tuple[ImageProblem, ...] = ()
    """What was left out, and why."""
    digest: str = ""
    """SHA-256 over the relative paths, classes and bytes of all images."""
    validation: bool = False
    """Whether `test` holds validation classes, split off from the training classes."""

    def summary(self) -> dict[str, Any]:
        """Counts, hash and problems for the card."""
        return {
            "name": self.name,
            "sha256": self.digest,
            **({"split": "validation"} if self.validation else {}),
            **({"classes_are": "images and their augmented copies"} if self.test.copies is not None else {}),
            "train": self.train.summary(),
            "test": self.test.summary(),
            "problems": dict(Counter(str(problem.kind) for problem in self.problems)),
            "problem_files": [
                f"{problem.path}: {problem.kind}" + (f" ({problem.detail})" if problem.detail else "")
                for problem in self.problems[:100]
            ],
        }


@dataclass(frozen=True)
class LabeledImage:
    """An image file and its class."""

    path: Path
    label: str
    """Name of the class."""


@dataclass(frozen=True)
class TrainTestImages:
    """The images of the training classes and of the test classes, as a data set lists them."""

    train: Sequence[LabeledImage]
    test: Sequence[LabeledImage]
    problems: Sequence[ImageProblem] = ()


def relative(path: Path, root: Path) -> str:
    """Return the path relative to `root`, with forward slashes; the whole path if it is outside."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def split_classes(
    images: Sequence[LabeledImage], options: DataOptions, *, default: int | float = 0.5
) -> TrainTestImages:
    """Split by class: the first classes in alphabetical (or shuffled) order train, the others test.

    Args:
        images: All images.
        options: `train_classes` and `split_seed` apply.
        default: Replaces `train_classes` if that is not given.

    Returns:
        The images of both halves, in their order.

    Raises:
        DatasetError: One half would have no class.
    """
    names = sorted({image.label for image in images})
    if options.split_seed is not None:
        names = [names[i] for i in np.random.default_rng(options.split_seed).permutation(len(names))]
    requested = default if options.train_classes is None else options.train_classes
    count = requested if isinstance(requested, int) else round(requested * len(names))
    if not 0 < count < len(names):
        raise DatasetError(
            f"data.train_classes = {requested} leaves no class to train or none to test: there are {len(names)}"
        )
    chosen = set(names[:count])
    return TrainTestImages(
        [image for image in images if image.label in chosen], [image for image in images if image.label not in chosen]
    )


def assemble(
    name: str,
    root: Path,
    listed: TrainTestImages,
    options: DataOptions,
    progress: ShowProgress | None = None,
    *,
    with_copies: bool = False,
) -> Dataset:
    """Check every image, leave out what cannot be used, number the classes.

    Args:
        name: Name of the data set.
        root: Its folder; paths in the card are relative to it.
        listed: All images with their classes.
        options: `decode_check` applies.
        progress: Called with (done, total) after each image.
        with_copies: Whether each image is a class of its own, with an augmented copy. Files of equal content then count
            once, since they are copies too.

    Returns:
        The data set, hashed over the relative paths, classes and bytes of its images.

    Raises:
        DatasetError: Fewer than two classes with two readable images are left on one side.
    """
    problems = list(listed.problems)
    images = [*listed.train, *listed.test]
    paths = [image.path for image in images]
    checks = _check_all(paths, root, decode_them=options.decode_check, progress=progress)
    problems += [check for check in checks if isinstance(check, ImageProblem)]
    digests = {path: check for path, check in zip(paths, checks, strict=True) if isinstance(check, str)}
    splits, seen = [], set[str]()
    for side, part in (("train", listed.train), ("test", listed.test)):
        readable = [image for image in part if image.path in digests]
        if with_copies:
            splits.append(_pair_with_copies(_number(_leave_out_equal(readable, root, digests, seen, problems))))
        else:
            splits.append(_number(_leave_out_single(readable, root, problems)))
        if len(splits[-1].classes) < 2:
            needed = "two readable images" if with_copies else "two classes with two readable images each"
            left = "images" if with_copies else "classes"
            raise DatasetError(
                f"{root}: {side} needs {needed}, but only {len(splits[-1].classes)} {left} are left; "
                f"{_most_frequent(problems)}"
            )
    return Dataset(
        name=name,
        root=root,
        train=splits[0],
        test=splits[1],
        problems=tuple(problems),
        digest=_digest(root, splits, digests),
    )


def with_validation_classes(dataset: Dataset, count: int, *, seed: int = 0) -> Dataset:
    """Return the data set with `count` of its training classes in place of the test classes.

    Args:
        dataset: The data set; its test classes are not used.
        count: Number of validation classes.
        seed: Decides which.

    Raises:
        DatasetError: Fewer than two classes would be left to train.
    """
    train = dataset.train
    if len(train.classes) - count < 2:
        raise DatasetError(
            f"data.validation_classes = {count} leaves fewer than two classes to train: there are {len(train.classes)}"
        )
    chosen = np.random.default_rng(seed).permutation(len(train.classes))[:count]
    held_out = np.isin(train.labels, chosen)
    whole = hashlib.sha256(f"{dataset.digest}\0validation\0{count}\0{seed}".encode())
    return replace(
        dataset,
        train=_part(train, ~held_out),
        test=_part(train, held_out),
        digest=whole.hexdigest(),
        validation=True,
    )


def _part(split: Split, keep: npt.NDArray[np.bool_]) -> Split:
    """Return some of the images, with their classes numbered anew."""
    numbers, labels = np.unique(split.labels[keep], return_inverse=True)
    paths = tuple(path for path, kept in zip(split.paths, keep, strict=True) if kept)
    copies = None if split.copies is None else split.copies[keep]
    return Split(paths, labels.astype(np.int64), tuple(split.classes[number] for number in numbers), copies)


def write_test_images(dataset: Dataset, path: Path) -> None:
    """Write path, relative_path and label of each test image, without copies, as a CSV file that serving can index."""
    test = dataset.test
    copies = np.zeros(len(test), dtype=bool) if test.copies is None else test.copies
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "relative_path", "label"])
        for image, label, is_copy in zip(test.paths, test.labels, copies, strict=True):
            if not is_copy:
                writer.writerow([image.resolve(), relative(image, dataset.root), test.classes[label]])


def _check_all(
    paths: Sequence[Path], root: Path, *, decode_them: bool, progress: ShowProgress | None
) -> list[str | ImageProblem]:
    """The SHA-256 of each file, or its problem."""
    found: list[str | ImageProblem] = []
    with ThreadPoolExecutor() as pool:
        for check in pool.map(lambda path: _check(path, root, decode_it=decode_them), paths, chunksize=16):
            found.append(check)
            if progress is not None:
                progress(len(found), len(paths))
    return found


def _check(path: Path, root: Path, *, decode_it: bool) -> str | ImageProblem:
    if not is_file(path):
        return ImageProblem(path=relative(path, root), kind=ImageProblemKind.MISSING)
    try:
        data = read_bytes(path)
        if decode_it:
            decode(data)
    except UndecodableImageError as error:
        return ImageProblem(path=relative(path, root), kind=ImageProblemKind.UNREADABLE, detail=str(error))
    return hashlib.sha256(data).hexdigest()


def _leave_out_single(images: Sequence[LabeledImage], root: Path, problems: list[ImageProblem]) -> list[LabeledImage]:
    """Leave out classes of one image, which have no positive."""
    sizes = Counter(image.label for image in images)
    problems += [
        ImageProblem(path=relative(image.path, root), kind=ImageProblemKind.SINGLE, detail=image.label)
        for image in images
        if sizes[image.label] == 1
    ]
    return [image for image in images if sizes[image.label] > 1]


def _leave_out_equal(
    images: Sequence[LabeledImage],
    root: Path,
    digests: dict[Path, str],
    seen: set[str],
    problems: list[ImageProblem],
) -> list[LabeledImage]:
    """Leave out images whose content is in `seen`, and add that of the others to it."""
    kept = []
    for image in images:
        if digests[image.path] in seen:
            problems.append(ImageProblem(path=relative(image.path, root), kind=ImageProblemKind.DUPLICATE))
        else:
            seen.add(digests[image.path])
            kept.append(image)
    return kept


def _pair_with_copies(split: Split) -> Split:
    """Repeat each image; the second one is an augmented copy."""
    paths = tuple(path for path in split.paths for _ in range(2))
    return Split(paths, split.labels.repeat(2), split.classes, np.tile([False, True], len(split)))


def _number(images: Sequence[LabeledImage]) -> Split:
    classes = tuple(sorted({image.label for image in images}))
    index = {label: number for number, label in enumerate(classes)}
    labels = np.array([index[image.label] for image in images], dtype=np.int64)
    return Split(tuple(image.path for image in images), labels, classes)


def _digest(root: Path, splits: Sequence[Split], digests: dict[Path, str]) -> str:
    whole = hashlib.sha256()
    for split in splits:
        for path, label in zip(split.paths, split.labels, strict=True):
            whole.update(f"{relative(path, root)}\0{split.classes[label]}\0{digests[path]}\n".encode())
    return whole.hexdigest()


def _most_frequent(problems: Sequence[ImageProblem]) -> str:
    if not problems:
        return "no images were left out"
    (kind, count), *_ = Counter(str(problem.kind) for problem in problems).most_common(1)
    return f"most left out: {count} × {kind}, for example {next(p.path for p in problems if p.kind == kind)}"
