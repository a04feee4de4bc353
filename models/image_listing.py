"""List the images of a folder or a CSV file: the only implementation, for training, indexing and audits.

Nothing is decoded here. What cannot be used is named as an `ImageProblem`, never dropped silently.
"""

import csv
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from hardrank.models.errors import HardrankError
from hardrank.models.files import expand_user

SUFFIXES: Final = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".jpx", ".png", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""Endings of image files, in any case."""
TEST_IMAGES: Final = "test_images.csv"
"""The list of its test images in the folder of a training run."""


class ListingError(HardrankError):
    """A folder or CSV file of images cannot be read."""


class ImageProblemKind(StrEnum):
    """Why an image, or a folder of images, is left out."""

    UNREADABLE = "unreadable image"
    MISSING = "missing file"
    NOT_AN_IMAGE = "not an image"
    BROKEN_LINK = "broken link"
    LINK_LOOP = "link to a folder above it"
    UNREADABLE_FOLDER = "unreadable folder"
    NOT_UTF8 = "name is not UTF-8"
    BAD_ROW = "bad row"
    BAD_NAME = "bad id or label"
    DUPLICATE = "duplicate"
    NO_CLASS = "image outside the class folders"
    EMPTY = "empty class"
    SINGLE = "class of one image"
    OUTSIDE = "folder beside train and test"


@dataclass(frozen=True, kw_only=True)
class ImageProblem:
    """Something that was left out, and why."""

    path: str
    """Relative to the folder, or as the CSV file gives it; printable."""
    kind: ImageProblemKind
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """An image of a folder or CSV file. Its file may not exist (CSV) or not be decodable."""

    path: Path
    name: str
    """Path relative to the folder, with forward slashes; of a CSV file, the column relative_path or path."""
    label: str | None = None
    """Class: the top folder that contains the image, or the column label; without surrounding spaces."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The other fields of a CSV row that are not empty."""
    line: int = 0
    """Line of the CSV file; 0: from a folder."""


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """The images of a folder or CSV file."""

    root: Path
    """The folder, or the folder of the CSV file."""
    images: Sequence[ListedImage]
    """In order of their names (folder) or rows (CSV)."""
    problems: Sequence[ImageProblem] = ()
    columns: Sequence[str] = ()
    """The header of the CSV file."""
    folders: Sequence[str] = ()
    """Names of the folders just below `root`, with or without images."""


def list_folder(root: Path) -> ImageListing:
    """List the images below a folder, at any depth, in the order of their path's parts.

    Symbolic links to files and folders are followed, except a link to a folder that contains it. Hidden files and
    folders, whose names begin with a dot, are ignored.

    Args:
        root: The folder; a leading `~` is expanded.

    Returns:
        The images and everything that was left out: files that are not images, broken links, link loops, folders that
        cannot be read, names that are not UTF-8.

    Raises:
        ListingError: The folder cannot be read, or its path is not UTF-8.
    """
    root = expand_user(root)
    check_utf8(root)
    images: list[ListedImage] = []
    problems: list[ImageProblem] = []
    folders: list[str] = []
    try:
        pending = _children(root, "", (_identity(root),))
    except OSError as error:
        raise _unreadable(root, error) from error
    while pending:
        found = pending.pop()
        mode = _mode(found.path)
        if (problem := _problem(found, mode)) is not None:
            problems.append(problem)
        elif stat.S_ISDIR(mode):
            folders += [] if "/" in found.name else [found.name]
            try:
                identity = _identity(found.path)
                if identity not in found.above:
                    pending += _children(found.path, f"{found.name}/", (*found.above, identity))
                else:
                    problems.append(ImageProblem(path=found.name, kind=ImageProblemKind.LINK_LOOP))
            except OSError as error:
                why = error.strerror or str(error)
                problems.append(ImageProblem(path=found.name, kind=ImageProblemKind.UNREADABLE_FOLDER, detail=why))
        else:
            top, slash, _ = found.name.partition("/")
            label = (top.strip() or None) if slash else None
            images.append(ListedImage(path=found.path, name=found.name, label=label))
    return ImageListing(root=root, images=images, problems=problems, folders=folders)


def list_csv(path: Path) -> ImageListing:
    """List the images of a CSV file: comma-separated UTF-8 with a header `path[,relative_path][,label][,more …]`.

    Paths are relative to the folder of the CSV file. A leading `~` is expanded. Backslashes separate folders unless a
    file with a backslash in its name exists. Spaces around names and fields are removed.

    Args:
        path: The CSV file; a leading `~` is expanded.

    Returns:
        One image for each row that has a path; the other rows are problems. Whether the files exist is not checked.

    Raises:
        ListingError: The file is not valid CSV or UTF-8, has no column path, or a row has more fields than the header
            (as an unquoted comma gives).
    """
    path = expand_user(path)
    check_utf8(path)
    images: list[ListedImage] = []
    problems: list[ImageProblem] = []
    columns: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            _check_columns(path, columns)
            for fields in reader:
                if not fields:
                    continue
                row = _row(path, reader.line_num, columns, fields)
                if "path" in row:
                    images.append(_image_of_row(path.parent, reader.line_num, row))
                else:
                    detail = f"line {reader.line_num}: no path"
                    problems.append(ImageProblem(path=str(path), kind=ImageProblemKind.BAD_ROW, detail=detail))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ListingError(f"cannot read {path} as CSV: {error}; save it as UTF-8 with commas") from error
    listed = ImageListing(root=path.parent, images=images, problems=problems, columns=columns)
    return _without_bad_targets(listed)


def subfolders(root: Path) -> list[str]:
    """Return the sorted names of the visible folders in `root`; raises `ListingError`."""
    try:
        return sorted(path.name for path in root.iterdir() if not path.name.startswith(".") and is_folder(path))
    except OSError as error:
        raise _unreadable(root, error) from error


def is_folder(path: Path) -> bool:
    """Like `Path.is_dir`, but false for any path that cannot be looked at."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Like `Path.is_file`, but false for any path that cannot be looked at (too long, a null byte, no permission)."""
    return stat.S_ISREG(_mode(path))


def check_utf8(path: Path) -> None:
    """Raise `ListingError` if a path, with its links resolved, is not UTF-8: neither CSV nor JSON can hold it."""
    if not (_is_utf8(str(path)) and _is_utf8(os.path.realpath(path))):
        raise ListingError(f"the path {printable(str(path))} is not UTF-8; rename its folders")


def printable(name: str) -> str:
    r"""Return a file name with the bytes that are not UTF-8 written as `\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unreadable(root: Path, error: OSError) -> ListingError:
    return ListingError(f"cannot read the folder {root}: {error.strerror}; check its path and permissions")


@dataclass(frozen=True)
class _Found:
    """A file or folder found while walking a tree."""

    path: Path
    name: str
    """Relative to the root, with forward slashes."""
    above: tuple[tuple[int, int], ...]
    """Identities of the folders that contain it."""


def _children(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> list[_Found]:
    """The visible content of a folder, last name first."""
    names = sorted((path.name for path in folder.iterdir()), reverse=True)
    return [_Found(folder / name, prefix + name, above) for name in names if not name.startswith(".")]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _problem(found: _Found, mode: int) -> ImageProblem | None:
    """What excludes a file or folder of this `mode`; None: it is a folder or may be an image."""
    link = _link_target(found.path)
    if not _is_utf8(found.name):
        return ImageProblem(path=printable(found.name), kind=ImageProblemKind.NOT_UTF8, detail="rename it")
    if link is not None and not mode:
        return ImageProblem(path=found.name, kind=ImageProblemKind.BROKEN_LINK, detail=f"to {printable(link)}")
    if link is not None and not _resolves_to_utf8(found.path):
        detail = f"it links to {printable(link)}"
        return ImageProblem(path=found.name, kind=ImageProblemKind.NOT_UTF8, detail=detail)
    if stat.S_ISDIR(mode):
        return None
    detail = ""
    if found.path.suffix.lower() not in SUFFIXES:
        detail = f"its name ends in none of {', '.join(SUFFIXES)}"
    elif mode and not stat.S_ISREG(mode):
        detail = "it is not a regular file"
    return ImageProblem(path=found.name, kind=ImageProblemKind.NOT_AN_IMAGE, detail=detail) if detail else None


def _mode(path: Path) -> int:
    """Type and permissions of a file, links followed; 0: it does not exist or cannot be looked at."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _link_target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except (OSError, ValueError):
        return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if "path" not in columns:
        raise ListingError(
            f"{path} needs a column path; its header is {','.join(columns)!r}. Write path,label in the first line"
        )
    for name in columns:
        if name and columns.count(name) > 1:
            raise ListingError(f"{path} has the column {name!r} twice; rename one")


def _row(path: Path, line: int, columns: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    """The fields that are not empty, by column."""
    if len(fields) > len(columns):
        raise ListingError(
            f"{path}, line {line}: {len(fields)} fields, but the header has {len(columns)} columns; put a field that "
            'contains a comma in double quotes, as "a, b"'
        )
    stripped = ((name, value.strip()) for name, value in zip(columns, fields, strict=False))
    return {name: value for name, value in stripped if name and value}


def _image_of_row(root: Path, line: int, row: Mapping[str, str]) -> ListedImage:
    written, relative = row["path"], row.get("relative_path")
    if "\\" in written and not _mode(root / written):
        written = written.replace("\\", "/")
        relative = None if relative is None else relative.replace("\\", "/")
    return ListedImage(
        path=root / expand_user(written),
        name=Path(relative or written).as_posix().lstrip("/"),
        label=row.get("label"),
        columns={name: value for name, value in row.items() if name not in ("path", "relative_path", "label")},
        line=line,
    )


def _without_bad_targets(listing: ImageListing) -> ImageListing:
    """Leave out images behind links to names that are not UTF-8."""
    folders: dict[Path, bool] = {}
    kept: list[ListedImage] = []
    problems = list(listing.problems)
    for image in listing.images:
        parent = image.path.parent
        if parent not in folders:
            folders[parent] = _resolves_to_utf8(parent)
        if folders[parent] and (_link_target(image.path) is None or _resolves_to_utf8(image.path)):
            kept.append(image)
        else:
            detail = f"line {image.line}: it links to a name that is not UTF-8"
            problems.append(ImageProblem(path=image.name, kind=ImageProblemKind.NOT_UTF8, detail=detail))
    return ImageListing(root=listing.root, images=kept, problems=problems, columns=listing.columns)


def _resolves_to_utf8(path: Path) -> bool:
    try:
        return _is_utf8(os.path.realpath(path))
    except ValueError:  # a null byte: there is no such file
        return True
