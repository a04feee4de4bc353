"""Shared by the official archives: find the root, read tables."""

from collections.abc import Iterator
from pathlib import Path

from hardrank.models.files import expand_user
from hardrank.trainer.data.dataset import DataOptions, DatasetError


def needed_root(options: DataOptions, archive: str, *files: str) -> Path:
    """Return `root`, or the archive's own folder in it, that contains one of `files`; raises `DatasetError`."""
    if options.root is None:
        raise DatasetError(f"no images given: use --data.root FOLDER, the unpacked archive {archive}")
    root = expand_user(options.root)
    for folder in (root, root / archive):
        if any((folder / name).is_file() for name in files):
            return folder
    raise DatasetError(f"{root} is not the unpacked archive {archive}: it has no {' and no '.join(files)}")


def read_table(path: Path, *, columns: int, skip: int = 0) -> Iterator[list[str]]:
    """Yield the fields of each line, separated by spaces; raises `DatasetError` for a line with too few."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines[skip:], start=skip + 1):
        fields = line.split(maxsplit=columns - 1)
        if not fields:
            continue
        if len(fields) < columns or not fields[0].isdecimal():
            raise DatasetError(f"{path}, line {number}: expected {columns} fields, the first a number, not {line!r}")
        yield fields
