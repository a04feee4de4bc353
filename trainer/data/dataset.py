"""A data set: images with labels, split into training and test classes that have nothing in common."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardrank.models.errors import HardrankError
from hardrank.models.preprocessing import UndecodableImageError, decode, read_bytes

ShowProgress = Callable[[int, int], None]
"""Called with (done, total)."""


class DatasetError(HardrankError):
    """A data set of which nothing usable is left, or options that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and which of their classes train."""

    name: str = "demo"
    """The data set: demo, caltech101, cub, cars, sop or folder."""
    root: Path | None = None
    """Its folder; null: where the data set expects it. `demo` is drawn into it, where the folder above it exists."""
    csv: Path | None = None
    """For `folder`: a CSV of path,label[,split] in place of class folders; paths are relative to it."""
    train_classes: int | float | None = None
    """How many classes train (a whole number), or which fraction of them (below 1); null: the data set's own split."""
    split_seed: int | None = None
    """Shuffle the classes before they are split; null: alphabetical order."""
    seed: int = 0
    """Seed of the images that `demo` draws."""
    decode_check: bool = True
    """Decode every image once before training, so that a damaged one is found now."""

    def __post_init__(self) -> None:
        for name in ("seed", "split_seed"):
            if (getattr(self, name) or 0) < 0:
                raise DatasetError(f"data.{name} must be at least 0, not {getattr(self, name)}")


class ProblemKind(StrEnum):
    """What can be wrong with an image or a class; each is reported by path and left out."""

    UNREADABLE = "unreadable image"
    MISSING = "missing file"
    SINGLE = "class of one image"
    EMPTY = "empty class"
    DUPLICATE = "duplicate name"
    NOT_AN_IMAGE = "not an image"
    BAD_ROW = "bad row"
    OUTSIDE = "folder beside train and test"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that was left out, and why."""

    path: Path
    kind: ProblemKind
    detail: str = ""


@dataclass(frozen=True)
class Split:
    """Images of one half of the classes."""

    paths: tuple[Path, ...]
    """Files, in a fixed order."""
    labels: npt.NDArray[np.int64]
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names in order of their label."""

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> dict[str, int]:
        """Counts for the card."""
        sizes = np.bincount(self.labels, minlength=len(self.classes))
        return {
            "images": len(self),
            "classes": len(self.classes),
            "smallest_class": int(sizes.min(initial=0) if not len(sizes) else sizes.min()),
            "largest_class": int(sizes.max(initial=0)),
        }


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test images of disjoint classes (zero-shot protocol), and what was left out."""

    name: str
    root: Path
    train: Split
    test: Split
    problems: tuple[Problem, ...] = ()
    digest: str = field(default="")
    """SHA-256 over the relative paths, classes and bytes of all images."""

    def summary(self) -> dict[str, Any]:
        """Counts, hash and problems for the card; paths are relative to the data set."""
        return {
            "name": self.name,
            "sha256": self.digest,
            "train": self.train.summary(),
            "test": self.test.summary(),
            "problems": dict(Counter(str(problem.kind) for problem in self.problems)),
            "problem_files": [
                f"{relative(problem.path, self.root)}: {problem.kind}"
                + (f" ({problem.detail})" if problem.detail else "")
                for problem in self.problems[:100]
            ],
        }


@dataclass(frozen=True)
class Entry:
    """An image as a data set lists it."""

    path: Path
    label: str
    """Its class by name."""


@dataclass(frozen=True)
class Listing:
    """What a reader found: images of the classes that train, and of those that test."""

    train: Sequence[Entry]
    test: Sequence[Entry]
    problems: Sequence[Problem] = ()


def relative(path: Path, root: Path) -> str:
    """The path below `root`, with forward slashes; the whole path where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def split_classes(entries: Sequence[Entry], options: DataOptions, *, default: int | float = 0.5) -> Listing:
    """Split by class: the first in alphabetical (or shuffled) order train, the others test.

    Raises `DatasetError` when `train_classes` leaves nothing for one of them.
    """
    names = sorted({entry.label for entry in entries})
    if options.split_seed is not None:
        names = [names[i] for i in np.random.default_rng(options.split_seed).permutation(len(names))]
    wanted = default if options.train_classes is None else options.train_classes
    count = wanted if isinstance(wanted, int) else round(wanted * len(names))
    if not 0 < count < len(names):
        raise DatasetError(
            f"data.train_classes = {wanted} leaves no classes to train or none to test: there are {len(names)}"
        )
    chosen = set(names[:count])
    return Listing([e for e in entries if e.label in chosen], [e for e in entries if e.label not in chosen])


def assemble(
    name: str, root: Path, listing: Listing, options: DataOptions, progress: ShowProgress | None = None
) -> Dataset:
    """Check every image, leave out what cannot be used, number the classes.

    Raises `DatasetError` when fewer than two classes with two images are left on either side.
    """
    problems = list(listing.problems)
    entries = [*listing.train, *listing.test]
    checks = _check_all([entry.path for entry in entries], decode_them=options.decode_check, progress=progress)
    problems += [check for check in checks if isinstance(check, Problem)]
    digests = {e.path: check for e, check in zip(entries, checks, strict=True) if isinstance(check, str)}
    splits = []
    for side, part in (("train", listing.train), ("test", listing.test)):
        usable = _leave_out_single([entry for entry in part if entry.path in digests], problems)
        splits.append(_number(usable))
        if len(splits[-1].classes) < 2:
            raise DatasetError(
                f"{root}: only {len(splits[-1].classes)} classes with two readable images are left to {side}, two are "
                f"needed; {_most_frequent(problems)}"
            )
    return Dataset(
        name=name,
        root=root,
        train=splits[0],
        test=splits[1],
        problems=tuple(problems),
        digest=_digest(root, splits, digests),
    )


def _check_all(paths: Sequence[Path], *, decode_them: bool, progress: ShowProgress | None) -> list[str | Problem]:
    """The SHA-256 of each file, or what is wrong with it."""
    found: list[str | Problem] = []
    with ThreadPoolExecutor() as pool:
        for check in pool.map(lambda path: _check(path, decode_them=decode_them), paths, chunksize=16):
            found.append(check)
            if progress is not None:
                progress(len(found), len(paths))
    return found


def _check(path: Path, *, decode_them: bool) -> str | Problem:
    try:
        if not path.is_file():
            return Problem(path=path, kind=ProblemKind.MISSING)
        data = read_bytes(path)
        if decode_them:
            decode(data)
    except UndecodableImageError as error:
        return Problem(path=path, kind=ProblemKind.UNREADABLE, detail=str(error))
    except OSError as error:
        return Problem(path=path, kind=ProblemKind.UNREADABLE, detail=error.strerror or str(error))
    return hashlib.sha256(data).hexdigest()


def _leave_out_single(entries: Iterable[Entry], problems: list[Problem]) -> list[Entry]:
    """A class of one image has no positive to train with and nothing to find."""
    entries = list(entries)
    sizes = Counter(entry.label for entry in entries)
    problems += [
        Problem(path=entry.path, kind=ProblemKind.SINGLE, detail=entry.label)
        for entry in entries
        if sizes[entry.label] == 1
    ]
    return [entry for entry in entries if sizes[entry.label] > 1]


def _number(entries: Sequence[Entry]) -> Split:
    classes = tuple(sorted({entry.label for entry in entries}))
    index = {label: number for number, label in enumerate(classes)}
    labels = np.array([index[entry.label] for entry in entries], dtype=np.int64)
    return Split(tuple(entry.path for entry in entries), labels, classes)


def _digest(root: Path, splits: Sequence[Split], digests: dict[Path, str]) -> str:
    whole = hashlib.sha256()
    for split in splits:
        for path, label in zip(split.paths, split.labels, strict=True):
            whole.update(f"{relative(path, root)}\0{split.classes[label]}\0{digests[path]}\n".encode())
    return whole.hexdigest()


def _most_frequent(problems: Sequence[Problem]) -> str:
    if not problems:
        return "no images were left out"
    (kind, count), *_ = Counter(str(problem.kind) for problem in problems).most_common(1)
    return f"most left out: {count} × {kind}, for example {next(p.path for p in problems if p.kind == kind)}"
