"""One's own images: a folder of class folders, or a CSV of path,label[,split]."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hardrank.models.preprocessing import FORMATS
from hardrank.trainer.data.dataset import (
    DataOptions,
    Dataset,
    DatasetError,
    Entry,
    Listing,
    Problem,
    ProblemKind,
    ShowProgress,
    assemble,
    split_classes,
)

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_HALVES: Final = ("train", "test")


def load(options: DataOptions, progress: ShowProgress | None = None) -> Dataset:
    """Read class folders below `root`, or the rows of `csv`.

    With folders `train` and `test` at the top, these are the split, and folders beside them are left out; else the
    first half of the classes trains, or `train_classes`. A CSV with a column `split` decides by it.

    Raises `DatasetError` where no split by class can be made of it.
    """
    if options.csv is not None and options.root is not None:
        raise DatasetError("--data.root and --data.csv both say which images: give one of them")
    if options.csv is not None:
        path = options.csv.expanduser()
        return assemble("folder", path.parent, _read_csv(path, options), options, progress)
    if options.root is None:
        raise DatasetError(
            "give the folder of your images: --data.root DIR (class folders) or --data.csv FILE (path,label)"
        )
    root = options.root.expanduser()
    return assemble("folder", root, list_folder(root, options), options, progress)


def list_folder(root: Path, options: DataOptions, *, default: int | float = 0.5) -> Listing:
    """List the images of class folders; a folder's name is its class. `default` stands in for `train_classes`."""
    top = {child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")}
    if top >= set(_HALVES):
        _refuse_split(options, f"a folder train beside a folder test in {root}")
        beside = [Problem(path=root / name, kind=ProblemKind.OUTSIDE) for name in sorted(top - set(_HALVES))]
        train, test = (_class_folders(root / half) for half in _HALVES)
        shared = sorted({e.label for e in train.train} & {e.label for e in test.train})
        if shared:
            raise DatasetError(
                f"{root}: the class {shared[0]!r} stands in both train and test; retrieval is tested on classes that "
                "were not trained"
            )
        return Listing(train.train, test.train, [*beside, *train.problems, *test.problems])
    found = _class_folders(root)
    if len({entry.label for entry in found.train}) < 4:
        raise DatasetError(
            f"{root} needs at least four class folders with images (two to train, two to test), it has "
            f"{len({entry.label for entry in found.train})}; put each class's images in a folder of its name"
        )
    halves = split_classes(found.train, options, default=default)
    return Listing(halves.train, halves.test, found.problems)


def _refuse_split(options: DataOptions, deciding: str) -> None:
    """Raise `DatasetError` for a split that was asked of images whose split is made already."""
    if options.train_classes is not None or options.split_seed is not None:
        raise DatasetError(f"{deciding} decides the split: leave out --data.train-classes and --data.split-seed")


def _class_folders(root: Path) -> Listing:
    entries: list[Entry] = []
    problems: list[Problem] = []
    for folder in sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")):
        images: dict[str, Path] = {}
        for path in _files(folder):
            if path.suffix.lower() not in SUFFIXES:
                problems.append(
                    Problem(path=path, kind=ProblemKind.NOT_AN_IMAGE, detail=f"not one of {', '.join(FORMATS)}")
                )
            elif path.name in images:
                problems.append(Problem(path=path, kind=ProblemKind.DUPLICATE, detail=f"as {images[path.name]}"))
            else:
                images[path.name] = path
        if not images:
            problems.append(Problem(path=folder, kind=ProblemKind.EMPTY))
        entries += [Entry(path, folder.name) for path in images.values()]
    return Listing(entries, (), problems)


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, hidden ones apart, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _read_csv(path: Path, options: DataOptions) -> Listing:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    if not {"path", "label"} <= columns:
        raise DatasetError(
            f"{path} needs the columns path and label (and split, if you like), it has {sorted(columns)}"
        )
    halves: dict[str, list[Entry]] = {"train": [], "test": [], "": []}
    problems: list[Problem] = []
    seen: set[Path] = set()
    for number, row in enumerate(rows, start=2):
        image = path.parent / (row["path"] or "")
        half = (row.get("split") or "").strip().lower()
        if not row["path"] or not row["label"] or half not in halves:
            problems.append(Problem(path=path, kind=ProblemKind.BAD_ROW, detail=f"line {number}"))
        elif image in seen:
            problems.append(Problem(path=image, kind=ProblemKind.DUPLICATE, detail=f"line {number}"))
        else:
            seen.add(image)
            halves[half].append(Entry(image, row["label"]))
    if "split" not in columns:
        parts = split_classes(halves[""], options)
        return Listing(parts.train, parts.test, problems)
    _refuse_split(options, f"the column split of {path}")
    problems += [Problem(path=e.path, kind=ProblemKind.BAD_ROW, detail="no split") for e in halves[""]]
    shared = {e.label for e in halves["train"]} & {e.label for e in halves["test"]}
    if shared:
        raise DatasetError(
            f"{path}: the class {min(shared)!r} is in train and test; retrieval is tested on unseen classes"
        )
    return Listing(halves["train"], halves["test"], problems)
