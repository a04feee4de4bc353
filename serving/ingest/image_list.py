"""Images to index: of a folder, a CSV file, or the test images of a training run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hardrank.models.bundle import CARD, load_card
from hardrank.models.decoding import FORMATS
from hardrank.models.files import expand_user
from hardrank.models.home import home
from hardrank.models.image_listing import (
    TEST_IMAGES,
    ImageProblem,
    ImageProblemKind,
    ListedImage,
    ListingError,
    list_csv,
    list_folder,
)
from hardrank.serving.store.items import InvalidItemError, Scalar, check_id, check_label, encode_metadata, id_of_path

RUN: Final = "run.json"
_RUNS: Final = home() / "runs"


class NoImagesError(ListingError):
    """A folder or CSV file that can be read, but lists no image."""


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """An image to index."""

    path: Path
    id: str
    label: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageList:
    """Images with distinct ids, and what was left out."""

    entries: Sequence[ImageEntry]
    problems: Sequence[ImageProblem] = ()


def list_images(place: Path) -> ImageList:
    """List the images of a folder or CSV file as they are indexed.

    Args:
        place: A folder, whose top folders are the labels, or a CSV file `path[,id][,label][,more …]`; see
            `hardrank.models.image_listing`. Without a column id, an id is made of the relative path. Further columns
            become metadata.

    Returns:
        Images with distinct ids, and what was left out.

    Raises:
        NoImagesError: `place` lists no images.
        ListingError: `place` does not exist or cannot be read.
    """
    place = expand_user(place)
    if place.is_dir():
        listing = list_folder(place)
    elif place.is_file():
        listing = list_csv(place)
    else:
        raise ListingError(f"{place} is neither a folder of images nor a CSV file; check the path")
    entries: dict[str, ImageEntry] = {}
    problems = list(listing.problems)
    for one in _entries(listing.images):
        if isinstance(one, ImageProblem):
            problems.append(one)
        elif one.id in entries:
            detail = f"{entries[one.id].path} has the id {one.id!r} too"
            problems.append(ImageProblem(path=str(one.path), kind=ImageProblemKind.DUPLICATE, detail=detail))
        else:
            entries[one.id] = one
    if not entries:
        first = f"; left out: {problems[0].path} ({problems[0].kind})" if problems else ""
        raise NoImagesError(f"{place} lists no images ({', '.join(FORMATS)}){first}")
    return ImageList(entries=list(entries.values()), problems=problems)


def list_run(place: Path) -> ImageList:
    """List the test images of a training run.

    Args:
        place: The run's folder, or a bundle that the run exported.

    Returns:
        As `list_images`.

    Raises:
        BundleError: The card of the bundle is damaged.
        ListingError: There is no such run, or it has no list of test images.
    """
    place = expand_user(place)
    folder = _run_of_bundle(place) if (place / CARD).is_file() else place
    if not (folder / RUN).is_file():
        raise ListingError(f"{place} is neither the folder of a run nor a bundle; runs are in runs/NAME")
    listed = folder / TEST_IMAGES
    if not listed.is_file():
        raise ListingError(
            f"{folder} has no {TEST_IMAGES}: repeat the command that made the run with --resume, which writes it, or "
            "give the images with --images"
        )
    return list_images(listed)


def _run_of_bundle(bundle: Path) -> Path:
    """Find the run that exported a bundle: runs/NAME in a folder above the bundle, or in the home of runs."""
    card = load_card(bundle)
    name = str(card.config.get("name", ""))
    near = [parent / "runs" for parent in bundle.resolve().parents]
    for runs in dict.fromkeys([*near, _RUNS]):
        if _run_id(runs / name) == card.run_id:
            return runs / name
    raise ListingError(
        f"the run that made {bundle} is not in {_RUNS / name}; give its folder with --from-run, or images with --images"
    )


def _run_id(folder: Path) -> str | None:
    try:
        content = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("run_id") if isinstance(content, dict) else None


def _entries(images: Sequence[ListedImage]) -> Iterator[ImageEntry | ImageProblem]:
    for image in images:
        entry = ImageEntry(
            path=image.path,
            id=image.columns.get("id") or id_of_path(image.name),
            label=image.label,
            metadata={column: value for column, value in image.columns.items() if column != "id"},
        )
        try:
            check_id(entry.id)
            if entry.label is not None:
                check_label(entry.label)
            encode_metadata(entry.metadata)
        except InvalidItemError as error:
            yield ImageProblem(path=str(entry.path), kind=ImageProblemKind.BAD_NAME, detail=str(error))
        else:
            yield entry
