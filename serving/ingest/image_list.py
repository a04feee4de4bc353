"""Which images are to be indexed: those below a folder, of a CSV, or that a training run was tested with."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from hardrank.models.bundle import CARD, load_card
from hardrank.models.errors import HardrankError
from hardrank.models.home import home
from hardrank.models.preprocessing import FORMATS
from hardrank.serving.store.items import InvalidItemError, Scalar, check_id, check_label, encode_metadata, id_of_path

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
RUN: Final = "run.json"
TEST_IMAGES: Final = "test_images.csv"
"""Where a run lists the images that it was tested with."""

_RUNS: Final = home() / "runs"
_OWN_COLUMNS: Final = frozenset({"path", "relative_path", "id", "label"})


class ListingError(HardrankError):
    """A folder, CSV or run that lists no images."""


class ProblemKind(StrEnum):
    """Why an image is left out."""

    UNREADABLE = "unreadable image"
    MISSING = "missing file"
    NOT_AN_IMAGE = "not an image"
    BAD_ROW = "bad row"
    BAD_NAME = "bad id or label"
    DUPLICATE = "duplicate id"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An image that was left out, and why."""

    path: str
    """As it was listed."""
    kind: ProblemKind
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image as it is listed."""

    path: Path
    id: str
    label: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images with ids that differ, and what was left out."""

    entries: Sequence[Entry]
    problems: Sequence[Problem] = ()


def list_images(place: Path) -> Listing:
    """List a folder or a CSV file; raises `ListingError` where there is neither, or nothing in it."""
    place = place.expanduser()
    if place.is_dir():
        return _checked(place, _of_folder(place))
    if place.is_file():
        return _checked(place, _of_csv(place))
    raise ListingError(f"{place} is neither a folder of images nor a CSV file; check the path")


def list_run(place: Path) -> Listing:
    """List the test images of a run (its folder, or a bundle that it made); raises `ListingError`."""
    folder = _run_of_bundle(place) if (place / CARD).is_file() else place
    if not (folder / RUN).is_file():
        raise ListingError(f"{place} is neither the folder of a run nor a bundle; runs lie in runs/NAME")
    listed = folder / TEST_IMAGES
    if not listed.is_file():
        raise ListingError(
            f"{folder} does not list its test images ({TEST_IMAGES} is missing): the command that made it, with "
            "--resume, writes the list; or give the images themselves with --images"
        )
    return list_images(listed)


def _run_of_bundle(bundle: Path) -> Path:
    """Find the run that made a bundle: by its name in runs/ here, or beside the folder that the bundle's zoo is in."""
    card = load_card(bundle)
    name = str(card.config.get("name", ""))
    near = [parent / "runs" for parent in bundle.resolve().parents]
    for runs in dict.fromkeys([*near, _RUNS]):
        if _run_id(runs / name) == card.run_id:
            return runs / name
    raise ListingError(
        f"the run that made {bundle} is not in {_RUNS / name}; give its folder to --from-run, or images to --images"
    )


def _run_id(folder: Path) -> str | None:
    try:
        content = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("run_id") if isinstance(content, dict) else None


def _of_folder(root: Path) -> Iterator[Entry | Problem]:
    """Walk the images below a folder; the folder just below `root` that an image lies in is its label."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        name = relative.as_posix()
        if path.suffix.lower() not in SUFFIXES:
            yield Problem(path=name, kind=ProblemKind.NOT_AN_IMAGE, detail=f"its name ends in none of {_endings()}")
            continue
        yield Entry(path=path, id=id_of_path(name), label=relative.parts[0] if len(relative.parts) > 1 else None)


def _of_csv(path: Path) -> Iterator[Entry | Problem]:
    """Read `path[,id][,label][,more …]`; paths are relative to the CSV, other columns become metadata.

    Where there is no id, it is made of relative_path, or else of the path.
    """
    for line, row in enumerate(_rows(path), start=2):
        name = (row.get("path") or "").strip()
        if not name or None in row:  # csv puts what is beyond the header under None
            detail = f"line {line}: " + ("more fields than columns" if None in row else "no path")
            yield Problem(path=name or str(path), kind=ProblemKind.BAD_ROW, detail=detail)
            continue
        yield Entry(
            path=path.parent / Path(name).expanduser(),
            id=(row.get("id") or "").strip() or id_of_path(_relative(row.get("relative_path") or name)),
            label=(row.get("label") or "").strip() or None,
            metadata={column: value for column, value in row.items() if column not in _OWN_COLUMNS and value},
        )


def _relative(name: str) -> str:
    return Path(name.strip()).as_posix().lstrip("/")


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ListingError(f"{path} cannot be read as CSV: {error}") from error
    if "path" not in columns:
        raise ListingError(f"{path} needs a column path (and id, label if you like); it has {list(columns)}")
    return rows


def _checked(place: Path, found: Iterator[Entry | Problem]) -> Listing:
    """Leave out what cannot be an item, and all but the first of each id."""
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for one in found:
        if isinstance(one, Problem):
            problems.append(one)
        elif (wrong := _wrong_name(one)) is not None:
            problems.append(Problem(path=str(one.path), kind=ProblemKind.BAD_NAME, detail=wrong))
        elif one.id in entries:
            detail = f"{one.id!r} is the id of {entries[one.id].path} already"
            problems.append(Problem(path=str(one.path), kind=ProblemKind.DUPLICATE, detail=detail))
        else:
            entries[one.id] = one
    if not entries:
        most = f"; left out: {problems[0].path} ({problems[0].kind})" if problems else ""
        raise ListingError(f"{place} lists no images ({', '.join(FORMATS)}){most}")
    return Listing(entries=list(entries.values()), problems=problems)


def _wrong_name(entry: Entry) -> str | None:
    try:
        check_id(entry.id)
        if entry.label is not None:
            check_label(entry.label)
        encode_metadata(entry.metadata)
    except InvalidItemError as error:
        return str(error)
    return None


def _endings() -> str:
    return ", ".join(sorted(SUFFIXES))
